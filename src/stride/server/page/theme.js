/** Dark or light, before anything is drawn. A classic script, because modules run later. */

"use strict";

try {
  const { theme } = JSON.parse(localStorage.getItem("stride.settings") ?? "{}");
  if (theme) document.documentElement.dataset.theme = theme;
} catch {
  // Settings that cannot be read: as the system has it.
}
