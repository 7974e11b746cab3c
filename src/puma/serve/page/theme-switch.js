// The switch between dark and light; theme.js applies the choice before the first paint.

import { by, icon } from "./dom.js";

export function startTheme() {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const draw = () => by("theme").setAttribute("aria-pressed", String(isDark()));
  by("theme").append(icon("theme"));
  by("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("puma-theme", root.dataset.theme);
    } catch {
      // storage is blocked: it holds until the page is left
    }
    draw();
  });
  dark.addEventListener("change", draw);
  draw();
}
