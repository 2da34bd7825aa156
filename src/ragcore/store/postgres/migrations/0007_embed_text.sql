-- Stores the choice of the text to embed for a chunk: its text alone, or preceded by the title or the headings. Existing chunks were embedded by their text
-- alone.
insert into {schema}.setting values ('embed_text', 'text');

-- Records the choice and returns the former one. Of the collection's settings, the role that writes documents may change only this one.
create function {schema}.record_embed_text(wanted text) returns text
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    as $$
    declare
        former text := (select value from {schema}.setting where name = 'embed_text');
    begin
        if wanted not in ('text', 'title+text', 'headings+text') then
            raise exception 'embed_text can''t be %', wanted using errcode = 'invalid_parameter_value';
        end if;
        if former is distinct from wanted then
            update {schema}.setting set value = wanted where name = 'embed_text';
        end if;
        return former;
    end
    $$;
revoke all on function {schema}.record_embed_text(text) from public
