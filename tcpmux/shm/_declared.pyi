"""Types of the compiled module, which has the documentation."""

LAYOUT: str

def field_rows() -> list[tuple[str, str, str, int, int]]: ...
def fields_of(owner: str) -> dict[str, tuple[int, int]]: ...
def layout_of(rows: object, protocol: object) -> str: ...

UPGRADE_STATES: tuple[str, ...]
PRESENCES: tuple[str, ...]
ABSENT: int
PRESENT: int
STOPPED: int
HANGING: int
PROGRAMS: tuple[str, ...]
CONTROL: int
LOGGER: int
OVER: int
REPLACED: int
ORDER_DRAIN: int
ORDER_RETIRE: int
MAX_LISTENERS: int
MAX_SHARDS: int
MAX_SLOTS: int
MAX_TICKETS: int
MAX_TURNS: int
MAX_RANGES: int
MAX_ALL_RULES: int
MAX_SEGMENTS: int
MAX_RULE_NAMES: int
MAX_RULE_VALUES: int
MAX_RULE_NUMBERS: int
MAX_RULE_TEXT: int
TLVS_MAX: int  # bytes that are kept of a PROXY header's TLVs
MAX_CONTESTS: int
MAX_CONTENDERS: int
ROUTE_RULES: tuple[str, ...]
DESTINATION_RULES: tuple[str, ...]
CLOSE_REASONS: tuple[str, ...]
PICK_REASONS: tuple[str, ...]
WORKER_COUNTERS: tuple[str, ...]
SLOT_COUNTERS: tuple[str, ...]
TIMES: tuple[str, ...]
LOG_ENTRIES: int
LOG_ENTRY_SIZE: int
REFUSAL_COUNT: int
LOG_ENDS: int
LOG_STARTS: int

def counter_rows() -> list[tuple[str, str, str, str, str]]: ...
