// Dark or light as last chosen, set before the first paint (a module would run after it). Without a choice the
// system's preference holds, by CSS alone.
try {
  const theme = localStorage.getItem("puma-theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
} catch {
  // storage is blocked: the system's preference it is
}
