"""Sets of ISIC ids in constant memory: one bit for each of the ten million possible ids."""

N_IDS = 10_000_000


class IdSet:
    """A set of well-formed ISIC ids, always 1.25 MB."""

    def __init__(self) -> None:
        self._bits = bytearray(N_IDS // 8)
        self._n_ids = 0

    def __len__(self) -> int:
        return self._n_ids

    def __contains__(self, isic_id: str) -> bool:
        number = int(isic_id[5:])
        return bool(self._bits[number >> 3] & (1 << (number & 7)))

    def add(self, isic_id: str) -> bool:
        """Add an id; return whether it is new."""
        number = int(isic_id[5:])
        bit = 1 << (number & 7)
        if self._bits[number >> 3] & bit:
            return False
        self._bits[number >> 3] |= bit
        self._n_ids += 1
        return True
