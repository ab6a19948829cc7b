#!/usr/bin/env bash
# Fills FOLDER with the HTML pages of a Debian documentation package: real text to try the server and measure it with.
#
#   scripts/documents.sh FOLDER PACKAGE [PART…]
#
# PART: folders within the package's pages, if not all of them are wanted.
# The pages are copied if the package is installed; else the package is fetched and unpacked, not installed (images of
# Debian often leave /usr/share/doc out when they install). Does nothing if FOLDER is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=${1:?FOLDER is missing}
package=${2:?PACKAGE is missing}
parts=("${@:3}")
if ((${#parts[@]} == 0)); then parts=(.); fi
if [[ -d $folder ]]; then exit 0; fi

fail() {
    printf '%s is not there, and cannot be fetched: %s. Any folder of HTML will do in its place.\n' "$folder" "$1" >&2
    exit 1
}

# Images come without apt's lists, and whoever has everything installed has no reason to fetch them.
command -v apt-get >/dev/null || fail "documentation packages are only taken where there is apt"
if ! apt-cache show "$package" >/dev/null 2>&1; then
    ((EUID == 0)) || fail "apt does not know $package; 'apt-get update' as root may help"
    apt-get -qq update || fail "apt's lists could not be fetched"
    apt-cache show "$package" >/dev/null 2>&1 || fail "apt knows no package $package"
fi
printf 'Fetching the pages of %s into %s …\n' "$package" "$folder" >&2

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# A package such as python3-doc only depends on the one of the current version.
current=$(apt-cache depends "$package" | awk '$1 == "Depends:" && $2 ~ /-doc/ && !seen++ { print $2 }')
package=${current:-$package}

root=""
if ! compgen -G "/usr/share/doc/$package/html/*.html" >/dev/null; then
    root=$scratch/unpacked
    (cd "$scratch" && apt-get -qq -o APT::Sandbox::User="$(id -un)" download "$package" && dpkg-deb -x ./*.deb "$root")
fi

# Pages only: beside them are scripts, pictures and the pages' sources as text. An index of words answers no question.
mkdir -p "$scratch/pages" "${folder%/*}"
cd "$root/usr/share/doc/$package/html"
find -L "${parts[@]}" -name '*.html' ! -name 'genindex*' ! -name bookindex.html ! -name search.html -print0 | tar -c --dereference --null -T - | tar -x -C "$scratch/pages"
cd - >/dev/null
rm -rf "$folder.new"
mv "$scratch/pages" "$folder.new"
mv "$folder.new" "$folder"
