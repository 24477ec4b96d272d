"""Sets of image ids: one bit for each of the ten million possible ISIC ids, and own ids by name."""

from lesion_tasks.archive.vocabulary import ISIC_ID

N_IDS = 10_000_000


class IdSet:
    """A set of well-formed image ids: 1.25 MB for all ISIC ids together, about 100 bytes for each own one."""

    def __init__(self) -> None:
        self._bits = bytearray(N_IDS // 8)
        self._n_ids = 0
        self._own: set[str] = set()

    def __len__(self) -> int:
        return self._n_ids + len(self._own)

    def __contains__(self, isic_id: str) -> bool:
        if not ISIC_ID.fullmatch(isic_id):
            return isic_id in self._own
        number = int(isic_id[5:])
        return bool(self._bits[number >> 3] & (1 << (number & 7)))

    def add(self, isic_id: str) -> bool:
        """Add an id; return whether it is new."""
        if not ISIC_ID.fullmatch(isic_id):
            is_new = isic_id not in self._own
            self._own.add(isic_id)
            return is_new
        number = int(isic_id[5:])
        bit = 1 << (number & 7)
        if self._bits[number >> 3] & bit:
            return False
        self._bits[number >> 3] |= bit
        self._n_ids += 1
        return True
