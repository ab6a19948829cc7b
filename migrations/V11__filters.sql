-- Filters on metadata, for searches that Postgres answers. The in-process index has the same rules:
-- * a comparison is true only of a value of the same JSON type; numbers compare as float8, strings by code point;
-- * a missing key (null is missing) makes each comparison false; `ne` and `nin` are the negations of `eq` and `in`;
-- * an array matches `eq` and `in` if one of its elements does, and no order; an object matches `exists` alone.

-- A JSON number as float8; one too small for it is 0, which the plain cast would refuse.
CREATE FUNCTION tertulia_float(number jsonb) RETURNS float8
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE WHEN abs(number::numeric) < 1e-320 THEN 0 ELSE number::float8 END;

CREATE FUNCTION tertulia_equals(held jsonb, wanted jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN jsonb_typeof(held) = 'array' THEN EXISTS (
        SELECT FROM jsonb_array_elements(held) AS element
        WHERE jsonb_typeof(element) = jsonb_typeof(wanted) AND CASE jsonb_typeof(element)
            WHEN 'number' THEN tertulia_float(element) = tertulia_float(wanted)
            WHEN 'string' THEN element = wanted
            WHEN 'boolean' THEN element = wanted
            ELSE false
        END)
    WHEN jsonb_typeof(held) IS DISTINCT FROM jsonb_typeof(wanted) THEN false
    WHEN jsonb_typeof(held) = 'number' THEN tertulia_float(held) = tertulia_float(wanted)
    WHEN jsonb_typeof(held) IN ('string', 'boolean') THEN held = wanted
    ELSE false
END;

CREATE FUNCTION tertulia_matches(metadata jsonb, filter jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    kind text := filter ->> 'type';
    held jsonb := metadata -> (filter ->> 'key');
    wanted jsonb := filter -> 'value';
    part jsonb;
BEGIN
    CASE kind
        WHEN 'and' THEN
            FOR part IN SELECT jsonb_array_elements(filter -> 'filters') LOOP
                IF NOT public.tertulia_matches(metadata, part) THEN
                    RETURN false;
                END IF;
            END LOOP;
            RETURN true;
        WHEN 'or' THEN
            FOR part IN SELECT jsonb_array_elements(filter -> 'filters') LOOP
                IF public.tertulia_matches(metadata, part) THEN
                    RETURN true;
                END IF;
            END LOOP;
            RETURN false;
        WHEN 'not' THEN
            RETURN NOT public.tertulia_matches(metadata, filter -> 'filter');
        WHEN 'exists' THEN
            RETURN coalesce(jsonb_typeof(held) <> 'null', false);
        WHEN 'eq' THEN
            RETURN public.tertulia_equals(held, wanted);
        WHEN 'ne' THEN
            RETURN NOT public.tertulia_equals(held, wanted);
        WHEN 'in', 'nin' THEN
            RETURN (kind = 'in') =
                EXISTS (SELECT FROM jsonb_array_elements(wanted) AS one WHERE public.tertulia_equals(held, one));
        WHEN 'gt', 'gte', 'lt', 'lte' THEN
            IF jsonb_typeof(held) IS DISTINCT FROM jsonb_typeof(wanted) THEN
                RETURN false;
            ELSIF jsonb_typeof(held) = 'number' THEN
                RETURN CASE kind
                    WHEN 'gt' THEN public.tertulia_float(held) > public.tertulia_float(wanted)
                    WHEN 'gte' THEN public.tertulia_float(held) >= public.tertulia_float(wanted)
                    WHEN 'lt' THEN public.tertulia_float(held) < public.tertulia_float(wanted)
                    ELSE public.tertulia_float(held) <= public.tertulia_float(wanted)
                END;
            ELSIF jsonb_typeof(held) = 'string' THEN
                RETURN CASE kind
                    WHEN 'gt' THEN (held #>> '{}') COLLATE "C" > (wanted #>> '{}')
                    WHEN 'gte' THEN (held #>> '{}') COLLATE "C" >= (wanted #>> '{}')
                    WHEN 'lt' THEN (held #>> '{}') COLLATE "C" < (wanted #>> '{}')
                    ELSE (held #>> '{}') COLLATE "C" <= (wanted #>> '{}')
                END;
            END IF;
            RETURN false;
    END CASE; -- An unknown kind is an error: no filter means anything else than it says.
END
$$;
