"""POST /admin/... -> growth, edits, withdrawals: changes for the next run of ingestion to find.

Not part of the archive's API. Which images are chosen is random, but the same for the same state.
"""

import zlib
from typing import Any

import numpy as np
from aiohttp import web

from archive_server import faults
from archive_server.holdings import Holdings, field_key
from lesion_tasks import UnusableInputError
from lesion_tasks.archive.vocabulary import LICENCES

EDIT_KINDS = ("metadata", "relabel", "relicense", "attribution", "file")
_NEVUS = ("Benign", "Benign melanocytic proliferations", "Nevus")
_MELANOMA = ("Malignant", "Malignant melanocytic proliferations (Melanoma)", "Melanoma, NOS")


def add_routes(app: web.Application, holdings: Holdings, plan: faults.FaultPlan) -> None:
    """Add the admin routes to an app."""
    admin = _Admin(holdings, plan)
    app.router.add_get("/admin/state", admin.state, allow_head=False)
    for name in ("grow", "edit", "withdraw", "return", "release", "faults"):
        app.router.add_post(f"/admin/{name}", admin.checked(getattr(admin, f"{name}_images")))


class _Admin:
    def __init__(self, holdings: Holdings, plan: faults.FaultPlan) -> None:
        self.holdings = holdings
        self.plan = plan

    def checked(self, change):  # type: ignore[no-untyped-def]
        """Answer unusable input with its error message."""

        async def handle(request: web.Request) -> web.Response:
            try:
                return web.json_response(await change(request))
            except UnusableInputError as error:
                return web.json_response({"error": str(error)}, status=400)

        return handle

    async def state(self, request: web.Request) -> web.Response:
        holdings = self.holdings
        return web.json_response(
            {
                "source": holdings.source.name,
                "images": int(holdings.table.n_records),
                "visible": len(holdings.visible),
                "edited": len(holdings.state.edits),
                "withdrawn": holdings.state.withdrawn,
                "embargoed": holdings.state.embargoed,
            }
        )

    async def grow_images(self, request: web.Request) -> dict[str, Any]:
        """Add images at the end; `embargoed` of them, spread over the new ones, stay hidden until released."""
        holdings = self.holdings
        n_new, n_embargoed = _count(request, "images"), _count(request, "embargoed", 0)
        if not holdings.source.can_grow:
            raise UnusableInputError(f"{holdings.source.name} cannot grow; expected a synthetic archive")
        if n_embargoed > n_new:
            raise UnusableInputError(f"embargoed={n_embargoed}: expected at most images={n_new}")
        before = holdings.table.n_records
        holdings.state.n_images = before + n_new
        holdings.state.n_changes += 1
        holdings.changed(has_grown=True)
        hidden = sorted(self._random().choice(n_new, n_embargoed, replace=False)) if n_embargoed else []
        holdings.state.embargoed += [holdings.visible_id(before + int(step)) for step in hidden]
        holdings.changed()
        added = [holdings.visible_id(position) for position in range(before, before + n_new)]
        return {"added": [isic_id for isic_id in added if isic_id not in set(holdings.state.embargoed)]}

    async def edit_images(self, request: web.Request) -> dict[str, Any]:
        """Edit images at random, or one exactly: a JSON body {"isic_id": ..., "changes": {field: value or null}}."""
        holdings = self.holdings
        if request.can_read_body:
            try:
                body = await request.json()
                edits = {str(body["isic_id"]): dict(body["changes"])}
            except (ValueError, KeyError, TypeError):
                raise UnusableInputError(
                    'edit: expected {"isic_id": ..., "changes": {field: value}}'
                ) from None
            self._check_ids(list(edits))
        else:
            kind = request.query.get("kind", "metadata")
            if kind not in EDIT_KINDS:
                raise UnusableInputError(f"edit kind {kind!r}: expected one of {', '.join(EDIT_KINDS)}")
            chosen = self._chosen(request, self._visible_ids())
            if kind == "file":
                for isic_id in chosen:
                    revisions = holdings.state.file_revisions
                    revisions[isic_id] = revisions.get(isic_id, 0) + 1
            edits = {isic_id: {} if kind == "file" else self._edit(isic_id, kind) for isic_id in chosen}
        for isic_id, changes in edits.items():
            if changes:
                holdings.edit(isic_id, changes)
        holdings.state.n_changes += 1
        holdings.changed()
        return {"edited": edits}

    async def withdraw_images(self, request: web.Request) -> dict[str, Any]:
        chosen = self._chosen(request, self._visible_ids())
        self._check_ids(chosen)
        self.holdings.state.withdrawn += chosen
        return self._done("withdrawn", chosen)

    async def return_images(self, request: web.Request) -> dict[str, Any]:
        state = self.holdings.state
        chosen = set(self._chosen(request, state.withdrawn))
        state.withdrawn = [isic_id for isic_id in state.withdrawn if isic_id not in chosen]
        return self._done("returned", sorted(chosen))

    async def release_images(self, request: web.Request) -> dict[str, Any]:
        """Publish embargoed images: they appear at their old `created`, behind any watermark."""
        state = self.holdings.state
        chosen = set(self._chosen(request, state.embargoed))
        state.embargoed = [isic_id for isic_id in state.embargoed if isic_id not in chosen]
        return self._done("released", sorted(chosen))

    async def faults_images(self, request: web.Request) -> dict[str, Any]:
        """Set the fault plan: `spec` as on the command line, `script` a comma-separated list of kinds."""
        plan = faults.parse_faults(request.query.get("spec", ""))
        script = faults.scripted(filter(None, request.query.get("script", "").split(",")))
        self.plan.__dict__.update(plan.__dict__ | {"script": script})
        return {"probabilities": plan.probability_by_kind, "script": list(script)}

    def _done(self, word: str, isic_ids: list[str]) -> dict[str, Any]:
        self.holdings.state.n_changes += 1
        self.holdings.changed()
        return {word: isic_ids}

    def _random(self) -> np.random.Generator:
        state = self.holdings.state
        return np.random.default_rng((zlib.crc32(state.source.encode()), state.n_changes))

    def _visible_ids(self) -> list[str]:
        return [self.holdings.visible_id(int(position)) for position in self.holdings.visible]

    def _chosen(self, request: web.Request, isic_ids: list[str]) -> list[str]:
        """Return the ids named in `ids`, else a random choice of `images` of the given ids."""
        if request.query.get("ids"):
            return request.query["ids"].split(",")
        n_chosen = min(_count(request, "images"), len(isic_ids))
        if n_chosen == 0:
            return []
        picks = self._random().choice(len(isic_ids), n_chosen, replace=False)
        return sorted(isic_ids[int(pick)] for pick in picks)

    def _check_ids(self, isic_ids: list[str]) -> None:
        for isic_id in isic_ids:
            self._position(isic_id)

    def _position(self, isic_id: str) -> int:
        position = self.holdings.position_of(isic_id)
        if position is None:
            raise UnusableInputError(f"image {isic_id!r}: not visible; expected the id of a visible one")
        return position

    def _edit(self, isic_id: str, kind: str) -> dict[str, Any]:
        """Return one plausible change of a kind."""
        position = self._position(isic_id)

        def current(field: str) -> Any:
            return self.holdings.table.column(field_key(field))[position]

        if kind == "attribution":
            return {"attribution": "Corrected: " + str(current("attribution"))[:180]}
        if kind == "relicense":
            known = current("copyright_license")
            step = LICENCES.index(known) + 1 if known in LICENCES else 0
            return {"copyright_license": LICENCES[step % len(LICENCES)]}
        if kind == "relabel":
            path = _NEVUS if current("diagnosis_1") == "Malignant" else _MELANOMA
            levels = (*path, None, None)
            return {f"diagnosis_{level}": name for level, name in enumerate(levels, start=1)}
        age = current("age_approx")
        older = 45 if not isinstance(age, int) else age + 5 if age < 85 else age - 5
        return {"age_approx": older, "sex": "male" if current("sex") == "female" else "female"}


def _count(request: web.Request, name: str, default: int | None = None) -> int:
    text = request.query.get(name, "" if default is None else str(default))
    if not text.isascii() or not text.isdigit():
        raise UnusableInputError(f"{name}={text!r}: expected a whole number")
    return int(text)
