"""A folder -> what ingestion would make of it, in words, and a mapping to be read and edited by its owner.

Names of columns and values that are common are proposed. Nothing proposed is in force before it stands in the folder's
`lesion-mapping.toml`; what nobody can know (the kind of pictures, a class named 3) is left open there.
"""

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.column_doubts import MAX_VALUES, ColumnDoubt
from lesion_tasks.archive.csv_table import TableForm, as_row, read_cells
from lesion_tasks.archive.local import open_download
from lesion_tasks.archive.mapped_folder import (
    N_ROWS_LOOKED_AT,
    MappedFolder,
    Reading,
    column_doubts,
    findings_in_words,
)
from lesion_tasks.archive.picture_names import PictureNames
from lesion_tasks.archive.printable import without_controls
from lesion_tasks.archive.recognition import (
    class_folders_of,
    first_cells,
    mapping_of,
    plain_mapping,
    published_mapping_of,
    published_mappings,
    tables_in,
)
from lesion_tasks.archive.table_mapping import MAPPING_NAME, PICTURE_COLUMNS, TableMapping, read_mapping
from lesion_tasks.archive.terms import FIELDS, PATH_SEPARATOR, PATHS, values_of
from lesion_tasks.archive.vocabulary import is_no_value
from lesion_tasks.catalog import TASKS
from lesion_tasks.metrics.counted import plural

N_VALUES_SHOWN = 12
N_LINES_SHOWN = 40
_SPREADSHEETS = frozenset({".xlsx", ".xls", ".ods", ".numbers"})
_ASKED_FOR = ("patient_id", "lesion_id", "diagnosis", "age_approx", "sex", "anatom_site")

# How people name columns, in small letters without accents or anything between them: in English, German, French,
# Italian, Spanish, Portuguese and Dutch. Words that may mean something else (`case`, `type`) are left out.
_COLUMN_NAMES = {
    "patient_id": "patient patientid patid pat patnr patientnr patientno patientnumber patientcode patientenid "
    "patientennr patientennummer patientin subject subjectid idpatient numeropatient "
    "paciente pacienteid idpaciente numeropaciente codigopaciente paziente pazienteid idpaziente codicepaziente "
    "historiaclinica prontuario patientnummer",
    "lesion_id": "lesion lesionid lesionnr lesionno lesionnumber lesioncode lasion lasionid lasionsid lasionnr "
    "lasionsnr lasionsnummer laesion laesionid laesionsnr befundnr idlesion numerolesion lesione lesioneid idlesione "
    "lesao lesaoid idlesao laesie lesie lesieid lesienr lesienummer",
    "diagnosis": "diagnosis diagnoses diagnostic diagnose diagnosen enddiagnose hauptdiagnose dx diag label class "
    "classlabel category disease pathology histology histologie histologia histopathology histopathologie "
    "histopatologia befund klasse classe clase categorie categoria diagnostico diagnosi diagnosticofinal",
    "age_approx": "age ageapprox ageyears patientage alter lebensalter alterjahre eta etaanni etapaziente edad "
    "edadanos idade idadeanos leeftijd agepatient ageans",
    "sex": "sex gender geschlecht geschl sexo sexe sesso genero genre genere geslacht",
    "anatom_site": "site anatomsite anatomsitegeneral anatomicalsite anatomicsite bodysite bodypart location "
    "localization localisation lokalisation lokalisierung korperstelle koerperstelle korperregion koerperregion "
    "korperteil hautregion region ort sitz sitio sitioanatomico ubicacion localizacion regionanatomica localizacao "
    "sede sedeanatomica localizzazione siteanatomique zone zona lichaamsdeel lichaamslocatie lokalisatie locatie "
    "plaats",
    "clin_size_long_diam_mm": "clinsizelongdiammm sizemm diametermm durchmessermm grossemm groessemm diametremm "
    "taillemm tamanomm diametromm dimensionemm tamanhomm groottemm",
    "fitzpatrick_skin_type": "fitzpatrick fitzpatrickskintype fitzpatricktype fst hauttyp phototype fototype fototipo "
    "fototipocutaneo phototypecutane huidtype",
    "monk_skin_tone": "monk monkskintone mst",
    "image_type": "imagetype bildart bildtyp aufnahmeart typeimage tipoimagen tipoimmagine tipoimagem beeldtype",
    "diagnosis_confirm_type": "diagnosisconfirmtype dxtype",
    "copyright_license": "copyrightlicense license licence lizenz licencia licenza licenca licentie",
    "attribution": "attribution",
}
_VALUES = {
    "sex": {
        "male": "male man männlich mann varón hombre masculino homme masculin uomo maschio maschile homem mannelijk",
        "female": "female woman weiblich frau mujer femenino femme féminin donna femmina femminile mulher feminino "
        "vrouw vrouwelijk",
    },
    "melanocytic": {"true": "true yes 1", "false": "false no 0"},
}
# Letters for the two sexes, by language. An M alone says nothing: it is a man, or a `mujer` beside an H. Beside a V it
# is left open too: `varón` and `mujer`, or `vrouw` and `man`.
_SEXES_BY_LETTER = (
    {"m": "male", "f": "female"},
    {"m": "male", "w": "female"},
    {"h": "male", "f": "female"},
    {"h": "male", "m": "female"},
)


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a folder is taken for, and what would become of it."""

    understood_as: str  # one sentence
    fields: tuple[tuple[str, str, str], ...]  # a field, the columns it is read from, what their values mean
    unused_columns: tuple[str, ...]
    findings: tuple[str, ...]  # what would be dropped or is missing, one sentence each
    proposal: str | None  # the text of a mapping; None where one stands already, or none is needed
    to_fill_in: tuple[str, ...] = ()  # lines for the mapping that stands: the values that it does not explain


def inspect_folder(root: Path, *, anew: bool = False) -> Inspection:
    """Look at a folder as ingestion does; read its table, and of the pictures only the names.

    With `anew` a mapping that stands there is passed over, as if there were none. Raises UnusableInputError for a
    folder without pictures, and for a mapping that is wrong.
    """
    if not anew and (root / MAPPING_NAME).is_file():
        return _report(root, read_mapping(root / MAPPING_NAME), f"read by {MAPPING_NAME}", writes=False)
    if not anew and mapping_of(root) is None and _is_download(root):
        return _of_download(root)
    known = published_mapping_of(root) or class_folders_of(root)
    if known is None:
        words = "no table that is known; a mapping is proposed"
        return _report(root, proposed_mapping(root), words, writes=True)
    title = known.title if known.table is None else f"the table {known.table} of {known.title}"
    return _report(root, known, f"{title}, which can be read without a mapping", writes=True)


def write_mapping(root: Path, text: str, *, overwrite: bool) -> Path:
    """Write the mapping of a folder; one that is there is kept unless `overwrite` says otherwise.

    Raises UnusableInputError if it is there, or if the folder cannot be written.
    """
    path = root / MAPPING_NAME
    try:
        if overwrite:
            draft = path.with_name(f".{MAPPING_NAME}.new")
            draft.write_text(text, encoding="utf-8")
            draft.replace(path)
        else:
            with path.open("x", encoding="utf-8") as stream:
                stream.write(text)
    except FileExistsError:
        raise UnusableInputError(f"{path}: there is one already; --overwrite replaces it") from None
    except OSError as error:
        raise UnusableInputError(f"{path}: {error.strerror or error}, expected to write it") from error
    return path


def _is_download(root: Path) -> bool:
    try:
        open_download(root)
    except UnusableInputError:
        return False
    return True


def _of_download(root: Path) -> Inspection:
    download = open_download(root)
    n_rows = n_files = 0
    for record in download.records():
        n_rows += 1
        n_files += download.file_of(record["isic_id"]) is not None
    findings = [f"{n_rows - n_files:,} of {n_rows:,} rows have no picture"] if n_files < n_rows else []
    return Inspection(
        understood_as=(
            f"a download of the ISIC Archive, which needs no mapping: {plural(n_rows, 'row')}, "
            f"{n_files:,} with a picture"
        ),
        fields=(),
        unused_columns=(),
        findings=tuple(findings),
        proposal=None,
    )


def _report(root: Path, mapping: TableMapping, words: str, *, writes: bool) -> Inspection:
    folder = MappedFolder(root, mapping)
    reading = Reading()
    for _ in folder.read(reading):
        pass
    named = {column for columns in mapping.named_columns.values() for column in columns}
    findings = list(findings_in_words(folder, reading))
    findings += _files_not_read(root, folder)
    demanding = [task.name for task in TASKS.values() if task.requires_sex]
    if demanding and "sex" not in mapping.fields:
        findings.append(
            f"no column is mapped to sex: {', '.join(demanding)} leave out images without it; a cohort does not, "
            "unless its entry has requires_sex"
        )
    if "image_type" not in mapping.fields:
        findings.append(
            f"nothing says what kind of pictures these are: set image_type, {_either('image_type')}"
        )
    kind = mapping.constants.get("image_type")
    blind = [task.name for task in TASKS.values() if kind not in task.image_types]
    if kind and blind:
        findings.append(
            f"image_type is {kind!r}, and the rules of {', '.join(blind)} ask for others: `lesion ingest --query ''` "
            "takes every kind, and a cohort may have image_types of its own"
        )
    return Inspection(
        understood_as=(
            f"{words}: {plural(reading.n_rows, 'row')}, {plural(len(folder.pictures), 'picture')}, "
            f"{plural(reading.n_records, 'image')}, in namespace {mapping.namespace}"
        ),
        fields=tuple(_fields_in_words(mapping, reading)),
        unused_columns=tuple(column for column in folder.columns if column not in named),
        findings=tuple(findings),
        proposal=as_toml(mapping, reading, folder.columns) if writes else None,
        to_fill_in=() if writes else tuple(_to_fill_in(mapping, reading)),
    )


def _spreadsheets_in(root: Path) -> list[Path]:
    return [path for path in sorted(root.iterdir()) if path.suffix.lower() in _SPREADSHEETS]


def _files_not_read(root: Path, folder: MappedFolder) -> Iterator[str]:
    """Yield what lies beside the pictures and might be meant as a table."""
    for path in _spreadsheets_in(root):
        yield f"{path.name} is a spreadsheet and is not read: save it as CSV"
    if folder.table is None:
        for path in tables_in(root):
            columns = first_cells(path)[1]
            if len(columns) > 1:
                shown = ", ".join(without_controls(column)[:60] for column in columns[:10])
                yield f"{path.name} is not read: none of its columns names a picture of this folder ({shown})"


def _fields_in_words(mapping: TableMapping, reading: Reading) -> Iterator[tuple[str, str, str]]:
    for name, columns in mapping.named_columns.items():
        counts = reading.values.get(name, Counter())
        meanings = mapping.values.get(name, {})
        shown = [
            f"{without_controls(value)[:60]} ({n:,})" + (f" = {meanings[value]}" if value in meanings else "")
            for value, n in counts.most_common(N_VALUES_SHOWN)
        ]
        if len(counts) > N_VALUES_SHOWN:
            shown.append(f"and {plural(len(counts) - N_VALUES_SHOWN, 'other value')}")
        if of_one := reading.identities.get(name):
            n = f"{len(of_one):,}" if len(of_one) < MAX_VALUES else f"{MAX_VALUES:,} or more"
            shown.append(f"{n} of them, with at most {plural(max(of_one.values()), 'image')} each")
        # A cell that says something without a meaning stands among the values already.
        if n_empty := reading.missing[name] - (reading.unread[name] if counts else 0):
            shown.append(f"no value ({n_empty:,})")
        yield name, ", ".join(columns), "; ".join(shown)
    for name, value in mapping.constants.items():
        yield name, "every row", value


def proposed_mapping(root: Path) -> TableMapping:
    """Make a mapping of what can be seen: the column that names pictures, and columns and values with common names."""
    pictures = PictureNames(root)
    if not len(pictures):
        raise UnusableInputError(
            f"{root}: no pictures found in it, expected a table and a folder of pictures"
        )
    found = max(_tables_with_pictures(root, pictures), key=lambda each: each[0], default=None)
    if found is None:
        if spreadsheets := _spreadsheets_in(root):
            raise UnusableInputError(
                f"{spreadsheets[0]}: is a spreadsheet, expected a text table: save it as CSV"
            )
        path, folder = PICTURE_COLUMNS
        is_sorted = len({each.rpartition("/")[0] for each in pictures.paths}) > 1
        by_folder: dict[str, tuple[str, ...]] = {"diagnosis": (folder,)} if is_sorted else {}
        return _with_values(root, plain_mapping(root, image=path, columns=by_folder, table=None))
    _, table, form, image, columns = found
    mapped: dict[str, tuple[str, ...]] = {}
    for column in columns:
        name = _FIELD_BY_LETTERS.get(_letters(column))
        if name is not None and name not in mapped and column != image:
            mapped[name] = (column,)
    mapping = plain_mapping(root, image=image, columns=mapped, table=table.relative_to(root).as_posix())
    return _with_values(root, replace(mapping, separator=form.separator, encoding=form.encoding))


def _tables_with_pictures(
    root: Path, pictures: PictureNames
) -> Iterator[tuple[int, Path, TableForm, str, list[str]]]:
    """Yield each table with a column that names pictures: how many of the first rows do, its form, and its columns."""
    for table in tables_in(root):
        separator, cells = first_cells(table)
        if len(cells) < 2:
            continue
        form = TableForm(separator=separator, encoding=_encoding_of(table))
        try:
            first = islice(read_cells(table, form), N_ROWS_LOOKED_AT)
            rows = [as_row(names, row) for _, names, row in first if len(row) == len(names)]
        except UnusableInputError:
            continue
        hits = Counter(
            {name: sum(pictures.names_one(row.get(name, "")) for row in rows) for name in cells if name}
        )
        for column, n in hits.most_common(1):
            if n:
                yield n, table, form, column, [name for name in cells if name]


def _encoding_of(table: Path) -> str:
    """UTF-8 if the table is, else what spreadsheets write in western Europe."""
    with table.open("rb") as stream:
        while chunk := stream.readline(65_536):
            try:
                chunk.decode("utf-8-sig")
            except UnicodeDecodeError:
                return "cp1252"
    return "utf-8"


def _with_values(root: Path, mapping: TableMapping) -> TableMapping:
    """Add what the values that occur mean, where their names are common ones, and what names a lesion."""
    reading = Reading()
    for _ in MappedFolder(root, mapping).read(reading):
        pass
    values: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for name, counts in reading.unknown.items():
        usual = _usual_meanings(name) | (_sexes_by_letter(counts) if name == "sex" else {})
        for value in counts:
            meaning = usual.get(value.casefold())
            if meaning is not None:
                values[name][value] = meaning
    columns = dict(mapping.columns)
    if reading.contested:  # numbered anew for each patient: both together name a lesion
        columns["lesion_id"] = (*columns["patient_id"], *columns["lesion_id"])
    return replace(mapping, values=dict(values), columns=columns)


def _usual_meanings(name: str) -> dict[str, str]:
    """What words commonly mean: the archive's own, those of published tables if they agree, and a few more."""
    meanings: defaultdict[str, set[str]] = defaultdict(set)
    for mapping in published_mappings():
        for value, meaning in mapping.values.get(name, {}).items():
            if not is_no_value(value):
                meanings[value.casefold()].add(meaning)
    for meaning in values_of(name):
        meanings[meaning.casefold()].add(meaning)
        if name in PATHS:
            meanings[meaning.rpartition(PATH_SEPARATOR)[2].casefold()].add(meaning)
    for meaning, words in _VALUES.get(name, {}).items():
        for word in words.split():
            meanings[word].add(meaning)
    return {value: next(iter(found)) for value, found in meanings.items() if len(found) == 1}


def _sexes_by_letter(values: Iterable[str]) -> dict[str, str]:
    """What the letters among these values mean, if there are two of them that one language uses together."""
    occurring = {value.casefold() for value in values}
    fitting = [letters for letters in _SEXES_BY_LETTER if letters.keys() <= occurring]
    return fitting[0] if len(fitting) == 1 else {}


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", _without_accents(name.casefold()))


def _without_accents(text: str) -> str:
    """The same letters without accents, umlauts and the like."""
    return "".join(each for each in unicodedata.normalize("NFKD", text) if not unicodedata.combining(each))


_FIELD_BY_LETTERS = {word: name for name, words in _COLUMN_NAMES.items() for word in words.split()}


def as_toml(mapping: TableMapping, reading: Reading, columns: Sequence[str]) -> str:
    """Write a mapping as the text of `lesion-mapping.toml`, with what is left open as comments.

    `columns` are those of the table.
    """
    lines = [
        "# What this folder's table means to `lesion ingest`. Correct it, and look again with `lesion inspect`.",
        *(f"# From the mapping of {mapping.title}: {cited}" for cited in mapping.cited),
        "",
        f"namespace = {_quoted(mapping.namespace)}  # of the pictures' ids, and of patients and lesions",
    ]
    if mapping.table is None:
        lines.append("# No table: every picture is a row with the columns path and folder.")
    else:
        lines.append(f"table = {_quoted(mapping.table)}")
    for name, value, usual in (
        ("joined", list(mapping.joined), []),
        ("separator", mapping.separator, ","),
        ("encoding", mapping.encoding, "utf-8"),
        ("header", list(mapping.header or ()), []),
        ("pictures", mapping.pictures, ""),
        ("missing", sorted(mapping.missing), []),
    ):
        if value != usual:
            lines.append(f"{name} = {_quoted(value)}")
    lines += ["", "[columns]", f"image = {_image_as_toml(mapping)}"]
    lines += [f"{name} = {_as_toml(columns)}" for name, columns in mapping.columns.items()]
    lines += [
        f"# {name} = {_quoted(_perhaps(name, columns))}  # {_QUESTIONS[name]}"
        for name in _ASKED_FOR
        if name not in mapping.fields
    ]
    if mapping.one_hot:
        lines += ["", "[one_hot]"]
        lines += [f"{name} = {_quoted(list(columns))}" for name, columns in mapping.one_hot.items()]
    doubts = column_doubts(mapping, reading)
    for name in [each for each in FIELDS if each in mapping.values or each in reading.unknown]:
        lines += [
            "",
            *_values_as_toml(
                name, mapping.values.get(name, {}), reading.unknown.get(name, Counter()), doubts.get(name)
            ),
        ]
    if mapping.no_counterpart:
        lines += ["", "[no_counterpart]  # values that the archive has no word for"]
        lines += [f"{name} = {_quoted(sorted(raw))}" for name, raw in mapping.no_counterpart.items()]
    lines += ["", "[constants]  # what holds for every row"]
    lines += [f"{name} = {_quoted(value)}" for name, value in mapping.constants.items()]
    if "image_type" not in mapping.fields:
        lines.append(f'# image_type = "dermoscopic"  # {_either("image_type")}')
    if "copyright_license" not in mapping.fields:
        lines.append(f'# copyright_license = "CC-BY"  # {_either("copyright_license")}')
    return "\n".join(lines) + "\n"


_QUESTIONS = {
    "patient_id": "which column says whose skin it is? Without it, a patient may be on two sides of a split",
    "lesion_id": 'which one says which lesion it is? ["patient", "lesion"] if lesions are numbered by patient',
    "diagnosis": "which one says what it is?",
    "age_approx": "in years",
    "sex": "of the patient",
    "anatom_site": "where on the body",
}


def _perhaps(name: str, columns: Sequence[str]) -> str:
    """The first column that has a usual name of a field as one of its words; nothing if there is none."""
    usual = _COLUMN_NAMES[name].split()
    return next(
        (
            column
            for column in columns
            if any(_letters(word) in usual for word in re.split(r"[\W_]+", column))
        ),
        "",
    )


def _to_fill_in(mapping: TableMapping, reading: Reading) -> Iterator[str]:
    doubts = column_doubts(mapping, reading)
    for name in [
        each
        for each in FIELDS
        if each in reading.unknown and values_of(each) and (each not in doubts or doubts[each].is_explicable)
    ]:
        yield f"In {MAPPING_NAME}, under [values.{name}]:"
        first, *lines = _open_values(name, reading.unknown[name])
        yield from (first, *lines[:N_LINES_SHOWN])
        if len(lines) > N_LINES_SHOWN:
            yield f"# and {plural(len(lines) - N_LINES_SHOWN, 'other value')}"


def _values_as_toml(
    name: str, meanings: Mapping[str, str], unknown: Counter[str], doubt: ColumnDoubt | None
) -> Iterator[str]:
    if not values_of(name):
        return
    yield f"[values.{name}]"
    for value, meaning in meanings.items():
        yield f"{_quoted(value)} = {_quoted(meaning)}"
    still_open = Counter({value: n for value, n in unknown.items() if value not in meanings})
    if doubt is not None:
        yield f"# {doubt.words}"
        if not doubt.is_explicable:
            return
    for line in _open_values(name, still_open):
        yield line if line.startswith("#") else f"# {line}"


def _open_values(name: str, unknown: Counter[str]) -> Iterator[str]:
    """Values without a meaning as lines to be completed, after one that says with what."""
    if unknown:
        shown = _EXAMPLES.get(name) or ", ".join(_quoted(value) for value in values_of(name)[:10])
        where = f" (`lesion terms {name} WORD` finds others)" if name in PATHS else ""
        yield f"# What these mean, such as {shown}{where}; or list them under [no_counterpart]:"
    for value, n in unknown.most_common():
        yield f'{_quoted(value)} = ""  # {plural(n, "row")}'


_EXAMPLES = {
    "diagnosis": '"Benign" or "Malignant:Malignant melanocytic proliferations (Melanoma)"',
    "anatom_site": '"Trunk" or "Head and neck:Head:Face"',
}


def _image_as_toml(mapping: TableMapping) -> str:
    if any(mapping.image.values()):
        kinds = ", ".join(f"{_quoted(column)} = {_quoted(kind)}" for column, kind in mapping.image.items())
        return f"{{ {kinds} }}"
    return _quoted(next(iter(mapping.image)))


def _as_toml(columns: tuple[str, ...]) -> str:
    return _quoted(columns[0] if len(columns) == 1 else list(columns))


def _either(name: str) -> str:
    return "one of " + ", ".join(values_of(name))


def _quoted(value: object) -> str:
    """A string or a list of strings as TOML writes it, which is how JSON does."""
    return json.dumps(value, ensure_ascii=False)
