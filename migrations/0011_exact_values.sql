-- JSONB keeps numbers by their value (1e20 comes back without its exponent, -0.0 without its sign) and no NUL at all.
CREATE FUNCTION holdfast.as_jsonb(value json) RETURNS jsonb
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE
    WHEN strpos(value::text, '\u0000') = 0 THEN value::jsonb
    ELSE regexp_replace(value::text, '(?<!\\)((?:\\\\)*)\\u0000', '\1' || chr(65533), 'g')::jsonb
END;
COMMENT ON FUNCTION holdfast.as_jsonb(json) IS 'to search in: NUL, which JSONB refuses, is U+FFFD';
ALTER TABLE holdfast.thread_values ALTER COLUMN value TYPE json USING value::json;
