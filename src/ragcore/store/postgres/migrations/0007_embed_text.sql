-- What is embedded for a chunk: its text, or its text with the title or the headings over it. Chunks that are there have their text alone.
insert into {schema}.setting values ('embed_text', 'text');

-- Records it, for the role that writes documents: of the collection's settings it may change this one alone. Gives what was recorded before.
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
