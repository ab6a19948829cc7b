//! Roles of people, and the one table of what each may do.

use crate::ctx::{Scope, Scopes};

/// What a person is in their tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// May do everything. A tenant that has owners keeps one.
    Owner,
    /// Manages everything but API keys and owners.
    Admin,
    /// Talks with visitors.
    Agent,
    /// Looks on.
    Viewer,
}

impl Role {
    /// Every role, from the one that may most.
    pub const ALL: [Self; 4] = [Self::Owner, Self::Admin, Self::Agent, Self::Viewer];

    /// The word for it in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Agent => "agent",
            Self::Viewer => "viewer",
        }
    }

    /// The role that `word` stands for.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }

    /// What people of this role may do.
    pub fn scopes(self) -> Scopes {
        Scope::ALL.into_iter().filter(|scope| Self::who_may(*scope).contains(&self)).collect()
    }

    /// The table: a line for each scope.
    #[rustfmt::skip]
    fn who_may(scope: Scope) -> &'static [Self] {
        use Role::{Admin, Agent, Owner, Viewer};
        match scope {
            Scope::KnowledgeRead  => &[Owner, Admin, Agent, Viewer],
            Scope::KnowledgeWrite => &[Owner, Admin],
            Scope::WidgetsRead    => &[Owner, Admin, Agent, Viewer],
            Scope::WidgetsWrite   => &[Owner, Admin],
            Scope::MeetingsRead   => &[Owner, Admin, Agent, Viewer],
            Scope::MeetingsWrite  => &[Owner, Admin, Agent],
            Scope::SessionsRead   => &[Owner, Admin, Agent, Viewer],
            Scope::SessionsWrite  => &[Owner, Admin, Agent],
            Scope::UsersRead      => &[Owner, Admin, Agent, Viewer],
            Scope::UsersWrite     => &[Owner, Admin],
            Scope::KeysRead       => &[Owner, Admin],
            Scope::KeysWrite      => &[Owner],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_less_than_the_one_before_it() {
        assert_eq!(Role::Owner.scopes(), Scopes::all());
        for pair in Role::ALL.windows(2) {
            let (more, less) = (pair[0].scopes(), pair[1].scopes());
            assert!(less.beyond(more).is_empty() && !more.beyond(less).is_empty(), "{pair:?}");
        }
        let viewer = Role::Viewer.scopes().words();
        assert!(!viewer.is_empty() && viewer.iter().all(|word| word.ends_with(":read")));
    }

    #[test]
    fn roles_have_one_word_each() {
        for role in Role::ALL {
            assert_eq!(Role::parse(role.as_str()), Some(role));
        }
        assert_eq!(Role::parse("Owner"), None);
    }
}
