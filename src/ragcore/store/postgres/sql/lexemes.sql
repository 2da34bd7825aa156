-- Returns the words of a text, in the same way for questions and chunks. The parser splits at blanks, so texts in scripts without blanks, and in Korean, which
-- attaches endings to words, are split into pairs of neighbouring characters. `ragcore.text.words` has the same ranges of characters.
create or replace function {schema}.lexemes(given text) returns tsvector
    language plpgsql immutable strict parallel safe
    set search_path = pg_catalog, pg_temp
    as $$
    declare
        unspaced constant text := {unspaced_literal};
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
