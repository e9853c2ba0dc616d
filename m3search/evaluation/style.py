"""How the page of a report looks."""

# The colours of rows are those of Okabe and Ito (2008), made for the colour-blind, without their
# yellow, which white hides; a mark has a shape and an outline, too.
STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1b1f24; --soft: #5b6470; --line: #d5dae0;
  --band: #f3f5f8; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171b; --ink: #e8ebef; --soft: #a4adb8; --line: #363d46; --band: #1e2329; }
}
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1rem; }
nav { display: flex; flex-wrap: wrap; gap: 0.3rem 1.2rem; }
a { color: inherit; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
figure { margin: 1rem 0; }
.drawings { display: flex; flex-wrap: wrap; gap: 1rem; }
svg { max-width: 100%; height: auto; }
figcaption, .note, caption { color: var(--soft); font-size: 0.9rem; max-width: 46rem; }
caption { text-align: left; font-weight: bold; padding: 0.4rem 0; color: var(--ink); }
.wide { overflow-x: auto; margin-top: 1rem; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.7rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 1px solid var(--soft); }
tbody tr:nth-child(even) { background: var(--band); }
tbody th { font-weight: normal; }
dt { font-weight: bold; }
dd { margin: 0 0 0.4rem 1rem; overflow-wrap: anywhere; }
svg text { font: 11px system-ui, sans-serif; fill: var(--ink); }
svg .axis { fill: var(--soft); }
svg .group { font-weight: bold; font-size: 12px; }
svg .on-light { fill: #000; }
svg .on-dark { fill: #fff; }
.grid { stroke: var(--line); }
.diagonal { stroke: var(--soft); stroke-dasharray: 4 4; }
.mark, .bubble { stroke: var(--ink); stroke-width: 0.7; }
.mark, .bubble { fill: var(--row); }
.curve { fill: none; stroke: var(--row); stroke-width: 2; }
.bubble { --row: #0072b2; fill-opacity: 0.6; }
.c0 { --row: #0072b2; }
.c1 { --row: #e69f00; }
.c2 { --row: #009e73; }
.c3 { --row: #cc79a7; }
.c4 { --row: #d55e00; }
.c5 { --row: #56b4e9; }
.c6 { --row: #666666; }
.c7 { --row: var(--ink); }
"""
