// What the user of this page may do. Until that is known, and for viewers, nothing that changes
// something is shown.

import { ApiError, call } from "./api.js";
import { byId } from "./dom.js";

async function role() {
  try {
    return (await call("/v1/access")).role;
  } catch (error) {
    // An older instance knows of no roles: who reaches it may do everything.
    if (error instanceof ApiError && error.status === 404) return "operator";
    throw error;
  }
}

export async function showRole() {
  const found = await role().catch(() => null);
  if (found === null) return; // asked again with the next connection
  document.body.dataset.role = found;
  byId("read-only").hidden = found !== "viewer";
}
