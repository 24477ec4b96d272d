"""Tell what an evaluation found by codes and numbers, not by its sentences"""

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

_DIGEST = "encode(sha256(convert_to(CAST({} AS jsonb)::text, 'UTF8')), 'hex')"
WORDED = _DIGEST.format("""jsonb_build_array(
    e.document -> 'verdict', e.document -> 'integrity', e.document -> 'subsets', e.document -> 'other_data',
    e.document -> 'predictions')""")
BY_CODES = _DIGEST.format("""jsonb_build_array(
    jsonb_path_query_array(e.document, '$.integrity[*].name'),
    jsonb_path_query_array(e.document, '$.integrity[*].status'),
    (SELECT jsonb_agg(found ORDER BY found) FROM jsonb_path_query(
        jsonb_build_array(e.document -> 'integrity', e.document -> 'subsets', e.document -> 'other_data',
                          e.document -> 'predictions'),
        'strict $.** ? (@.type() != "object" && @.type() != "array"
            && !(@.type() == "string" && @ like_regex " "))') AS found))""")
# The evaluation that a rejection or an open question is about, as long as it was not made again since.
_OF = "e.training_id = t.training_id AND e.manifest_digest = t.manifest_digest AND t.training_id = {}.training_id"


def statements(before: str, after: str) -> list[str]:
    """What computes anew the digests that were computed one way, from the documents that they are of."""
    return [
        f"""
        UPDATE promotion p SET figures = jsonb_set(p.figures, '{{findings_sha256}}', to_jsonb({after}))
        FROM evaluation e, training t
        WHERE {_OF.format("p")} AND p.figures ->> 'findings_sha256' IS NOT NULL
            AND p.figures ->> 'findings_sha256' = {before}
        """,  # noqa: S608 - our own words
        f"""
        UPDATE open_question q SET findings_sha256 = {after} FROM evaluation e, training t
        WHERE {_OF.format("q")} AND q.findings_sha256 = {before}
        """,  # noqa: S608 - our own words
    ]


def upgrade() -> None:
    for statement in statements(WORDED, BY_CODES):
        op.execute(statement)


def downgrade() -> None:
    for statement in statements(BY_CODES, WORDED):
        op.execute(statement)
