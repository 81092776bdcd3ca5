// Sets the theme before the first paint, so that a remembered one does not flash. Not a module,
// as modules run after it.

document.documentElement.dataset.theme = localStorage.getItem("tcpmux-theme") ?? "auto";
