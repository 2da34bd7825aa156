-- What a collection records of itself, words of any language, and a loud answer where no tenant is set. The release before works with all of it.

insert into {schema}.setting values ('language', {language_literal}), ('vector_type', 'vector'), ('contracted', 'false'), ('text', 'pending');

-- The words of a text, as questions and chunks have them. The parser splits at blanks, so scripts without them (and Korean, whose endings grow onto
-- words) are taken out and given as pairs of neighbouring characters. The same ranges stand in `ragcore.words`.
create function {schema}.lexemes(given text) returns tsvector
    language plpgsql immutable strict parallel safe
    set search_path = pg_catalog
    as $$
    declare
        unspaced constant text := '[\u0E00-\u0EFF\u1000-\u109F\u1780-\u17FF\u3040-\u30FF\u3400-\u4DBF\u4E00-\u9FFF\uAC00-\uD7AF\uF900-\uFAFF]+';
    begin
        if given !~ unspaced then
            return to_tsvector({language_literal}, {folded});
        end if;
        given := {folded};
        return to_tsvector({language_literal}, regexp_replace(given, unspaced, ' ', 'g')) || to_tsvector('simple', (
            select string_agg(substr(run, at, 2), ' ' order by nth, at)
            from regexp_matches(given, unspaced, 'g') with ordinality as found (matched, nth)
            cross join lateral (select matched[1] as run) as one
            cross join lateral generate_series(1, greatest(length(run) - 1, 1)) as at
        ));
    end
    $$;

-- For a statement that runs without a tenant: it would see an empty store, and an error is better. Whoever counts all chunks is the owner, who has a
-- policy of its own for that.
create function {schema}.tenant_is_missing() returns boolean
    language plpgsql volatile
    set search_path = pg_catalog
    as $$
    begin
        if current_setting('ragcore.counting', true) = 'on'
            and pg_has_role(current_user, (select relowner from pg_class where oid = {chunk_literal}::regclass), 'usage') then
            return false;
        end if;
        raise exception 'ragcore.tenant is not set: no statement may read or write rows of ragcore without naming a tenant'
            using errcode = 'RC001', hint = 'select set_config(''ragcore.tenant'', …, true) in the same transaction';
    end
    $$;
