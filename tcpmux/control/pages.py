"""The page's own files, read once. Runs in control."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).parent / "page"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    "": "text/plain; charset=utf-8",  # a licence
}
# Nothing from elsewhere, nothing in line but styles (the plots set some), no frames around it.
POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class File:
    content: bytes
    headers: dict[str, str]


@cache
def load() -> dict[str, File]:
    """By path below the page's directory. Files come with the package: OSError is a fault."""
    found = {}
    for path in sorted(ROOT.rglob("*")):
        if path.is_file() and path.suffix in TYPES:
            content = path.read_bytes()
            headers = {
                **HEADERS,
                "Content-Type": TYPES[path.suffix],
                "ETag": f'"{sha256(content).hexdigest()[:16]}"',
            }
            found[path.relative_to(ROOT).as_posix()] = File(content, headers)
    return found
