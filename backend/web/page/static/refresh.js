// Brings the main part up to date every few seconds while somebody looks; without it the page reloads by itself.
(() => {
  const SECONDS = 5;
  const address = location.pathname + location.search.replace(/([?&])done=[^&]*/, "$1");
  let before = "";

  const opened = (main) => [...main.querySelectorAll("details")].map((each) => each.open);

  async function refresh() {
    const main = document.getElementById("main");
    if (document.hidden || main.contains(document.activeElement)) return;
    const answer = await fetch(address, { credentials: "same-origin" });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("main");
    const text = fresh.textContent + [...fresh.querySelectorAll("polyline, circle, progress")].map((each) => each.outerHTML);
    if (text === before) return;
    before = text;
    const open = opened(main);
    fresh.querySelectorAll("details").forEach((each, i) => { each.open = Boolean(open[i]); });
    main.replaceWith(document.adoptNode(fresh));
  }

  setInterval(() => refresh().catch(() => {}), SECONDS * 1000);
})();
