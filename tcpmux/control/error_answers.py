"""What is answered when a request can't be carried out. Runs in control.

Errors are {"error": "one line"}, perhaps with a "hint": the name of a parameter that would have it
done.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from tcpmux.control.head import Refused
from tcpmux.control.master_link import MasterGone, MasterRefused, MasterSilent

log = logging.getLogger("tcpmux.control")

# By kind of refusal.
HTTP_STATUS = {"invalid": 400, "not_found": 404, "refused": 409, "unforced": 409, "bad_file": 422}
# By kind of refusal: the parameter that would have it done.
HINTS = {"unforced": "force"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def error_answer(status: int, message: str, hint: str = "") -> web.Response:
    told = {"error": message, "hint": hint} if hint else {"error": message}
    return web.json_response(told, status=status)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        allow = error.headers.get("Allow")
        what = {
            404: f"no such path: {request.path}",
            405: f"method {request.method} is not allowed: use {allow}",
        }
        response = error_answer(error.status, what.get(error.status) or error.text or error.reason)
        if allow:
            response.headers["Allow"] = allow
        return response
    except Refused as error:
        return error_answer(error.status, str(error))
    except MasterRefused as error:
        return error_answer(HTTP_STATUS[error.kind], str(error), HINTS.get(error.kind, ""))
    except (MasterGone, MasterSilent) as error:
        gone = (
            ": traffic is not affected, but nothing can be changed; "
            "start tcpmux again with the same file, and it takes over"
        )
        is_gone = isinstance(error, MasterGone)
        return error_answer(503 if is_gone else 504, f"{error}{gone if is_gone else ''}")
    except ConnectionError:  # the client has gone
        raise
    except Exception as error:
        log.exception("%s %s", request.method, request.path)
        return error_answer(500, f"internal error in tcpmux: {error!r}; see its log for details")
