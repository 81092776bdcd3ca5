// The chosen route, and maybe one of its destinations, in the part of the address that the server
// does not see.

export function hashOf(route, destination = null) {
  const named = destination === null ? { route } : { route, destination };
  return `#${new URLSearchParams(named)}`;
}

// {route, destination}: null for what the address does not name.
export function placeInLocation() {
  const named = new URLSearchParams(location.hash.slice(1));
  return { route: named.get("route"), destination: named.get("destination") };
}
