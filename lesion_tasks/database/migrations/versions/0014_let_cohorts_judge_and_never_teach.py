"""Let cohorts judge and never teach"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

REFUSE = """
CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DECLARE taught record;
    BEGIN
        SELECT c.cohort, m.isic_id, m.split, m.subset INTO taught
        FROM {members} m JOIN split_state s USING (split) JOIN {cohorts} c ON c.task = s.task AND c.isic_id = m.isic_id
        WHERE m.subset IN ('train', 'val') LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION USING ERRCODE = 'check_violation', CONSTRAINT = 'cohorts_never_teach',
                MESSAGE = 'cohorts_never_teach: image ' || taught.isic_id || ' of cohort ' || taught.cohort
                    || ' stands in ' || taught.subset || ' of split ' || taught.split;
        END IF;
    END;
    RETURN NULL;
END $$
"""
TRIGGER = """
CREATE OR REPLACE TRIGGER refuse_taught_{event} AFTER {event} ON {table}
REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION {name}()
"""
# The function, what it reads as members and as cohorts, and the table whose written rows it is called for.
REFUSALS = (
    ("refuse_taught_members", "written", "cohort_image", "split_member"),
    ("refuse_taught_cohorts", "split_member", "written", "cohort_image"),
)
NAMED = "name in the catalogue"
NAMED_OR_COHORT = "name in the catalogue, or cohort-<name>-<task>"


def upgrade() -> None:
    op.create_table(
        "cohort_image",
        sa.Column("task", sa.Text(), nullable=False, comment=NAMED),
        sa.Column("isic_id", sa.Text(), nullable=False, comment="the archive's id"),
        sa.Column("cohort", sa.Text(), nullable=False, comment=NAMED),
        sa.ForeignKeyConstraint(["isic_id"], ["record.isic_id"], name=op.f("fk_cohort_image_isic_id_record")),
        sa.PrimaryKeyConstraint("task", "isic_id", "cohort", name=op.f("pk_cohort_image")),
    )
    op.add_column(
        "split_state",
        sa.Column(
            "task",
            sa.Text(),
            nullable=True,
            comment="name in the catalogue: whose cohorts it must not hold",
        ),
    )
    op.execute("""
        UPDATE split_state SET task = known.task FROM (SELECT DISTINCT split, task FROM manifest) AS known
        WHERE known.split = split_state.split
    """)
    # A split that never gave a manifest is judged again as a whole.
    op.execute("DELETE FROM split_state WHERE task IS NULL")
    op.alter_column("split_state", "task", nullable=False)
    op.add_column(
        "manifest",
        sa.Column(
            "cohort",
            sa.Text(),
            nullable=True,
            comment="the cohort whose images it lists, all as test; null for a split's",
        ),
    )
    op.alter_column(
        "manifest", "split", existing_type=sa.Text(), existing_nullable=False, comment=NAMED_OR_COHORT
    )
    op.add_column(
        "evaluation",
        sa.Column(
            "cohort_figures",
            postgresql.JSONB(),
            sa.Computed("document #> '{other_data,figures}'", persisted=True),
            nullable=True,
            comment="the leading figure on each cohort, by its name",
        ),
    )
    op.create_index(
        "ix_split_member_set_aside",
        "split_member",
        ["split"],
        postgresql_where=sa.text("reason = 'set_aside'"),
    )
    for name, members, cohorts, table in REFUSALS:
        op.execute(REFUSE.format(name=name, members=members, cohorts=cohorts))
        for event in ("insert", "update"):
            op.execute(TRIGGER.format(event=event, table=table, name=name))


def downgrade() -> None:
    for name, _, _, table in REFUSALS:
        for event in ("insert", "update"):
            op.execute(f"DROP TRIGGER refuse_taught_{event} ON {table}")
        op.execute(f"DROP FUNCTION {name}()")
    op.drop_index("ix_split_member_set_aside", table_name="split_member")
    op.drop_column("evaluation", "cohort_figures")
    op.alter_column("manifest", "split", existing_type=sa.Text(), existing_nullable=False, comment=NAMED)
    op.drop_column("manifest", "cohort")
    op.drop_column("split_state", "task")
    op.drop_table("cohort_image")
