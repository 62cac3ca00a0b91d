"""The style sheet of all reports: light and dark, on paper, and down to a phone's width."""

# Text on background reaches 4.5:1 (WCAG AA) in both themes; verdicts also say their name in words.
_LIGHT = """
--text:#1c2330;--muted:#556070;--background:#fff;--panel:#f6f7fa;--line:#d5dae3;--grid:#e6e9ef;
--first:#6f7c91;--second:#1f66b5;--change:#4d7a3c;
--ok:#2c6e3a;--warning:#8f5a00;--critical:#b3261e;--error:#5b3a8c;--quiet:#5d6673;
--badge:#fff;--added:#e3f4e6;--removed:#fbe6e4;--link:#1f5fa8;
"""
_DARK = """
--text:#e4e8ef;--muted:#a3adbc;--background:#14171d;--panel:#1d222b;--line:#3b4351;--grid:#2b323d;
--first:#8e9bb0;--second:#62aaf5;--change:#8fc47c;
--ok:#6fc380;--warning:#e5ac4b;--critical:#ff8a80;--error:#c3a3f5;--quiet:#a3adbc;
--badge:#14171d;--added:#173322;--removed:#3d1d1d;--link:#8ec0ff;
"""

STYLE = f"""
:root{{color-scheme:light dark;{_LIGHT}}}
@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}
*{{box-sizing:border-box}}
body{{font:1rem/1.5 system-ui,sans-serif;margin:0 auto;padding:1.5rem 1rem 3rem;max-width:64rem;
color:var(--text);background:var(--background);overflow-wrap:break-word}}
h1{{font-size:1.6rem;line-height:1.25;margin:.2rem 0 .8rem}}
h2{{font-size:1.3rem;margin:2.6rem 0 .6rem;padding-top:1rem;border-top:1px solid var(--line)}}
h3{{font-size:1.08rem;margin:1.8rem 0 .4rem}}
h4{{font-size:1rem;margin:1.1rem 0 .3rem}}
p{{max-width:46rem;margin:.5rem 0}}
a{{color:var(--link)}}
code,pre{{font-family:ui-monospace,SFMono-Regular,Consolas,monospace;font-size:.9em}}
code{{background:var(--panel);padding:.05rem .25rem;border-radius:.2rem}}
.muted{{color:var(--muted)}}
.scroll{{overflow-x:auto;margin:.6rem 0}}
.scroll:focus-visible{{outline:2px solid var(--link)}}
table{{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}}
caption{{text-align:left;color:var(--muted);padding:.2rem 0;font-size:.92rem}}
th,td{{text-align:left;vertical-align:top;padding:.3rem .9rem .3rem 0;
border-bottom:1px solid var(--line)}}
thead th{{color:var(--muted);font-weight:600}}
tbody th{{font-weight:600}}
.number{{text-align:right}}td.number{{white-space:nowrap}}
.wide{{min-width:15rem}}
.badge{{display:inline-block;border-radius:.7rem;padding:0 .6rem;font-size:.82rem;font-weight:600;
color:var(--badge);background:var(--quiet);white-space:nowrap}}
.badge.ok{{background:var(--ok)}}.badge.warning{{background:var(--warning)}}
.badge.critical{{background:var(--critical)}}.badge.error{{background:var(--error)}}
ul{{padding-left:1.2rem;margin:.4rem 0}}li{{margin:.25rem 0}}
.charts{{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(22rem,100%),1fr));
gap:1rem 1.5rem;margin:.6rem 0}}
figure{{margin:0;min-width:0}}
figcaption{{font-size:.92rem;color:var(--muted);margin-bottom:.2rem}}
svg{{display:block;max-width:100%;height:auto;overflow:visible}}
svg text{{font:13px system-ui,sans-serif;fill:var(--muted)}}
svg .axis{{stroke:var(--line)}}svg .grid{{stroke:var(--grid)}}
svg .first,.key.first{{fill:var(--first);background:var(--first)}}
svg .second,.key.second{{fill:var(--second);background:var(--second)}}
svg .change{{fill:var(--change)}}
svg path{{fill:none;stroke-width:2}}
svg path.first{{stroke:var(--first);fill:none;stroke-dasharray:5 3}}
svg path.second{{stroke:var(--second);fill:none}}
svg path.change{{stroke:var(--change);fill:none}}
svg rect.ok{{fill:var(--ok)}}svg rect.warning{{fill:var(--warning)}}
svg rect.critical{{fill:var(--critical)}}svg rect.error{{fill:var(--error)}}
svg rect.insufficient,svg rect.symptom,svg rect.unwatched{{fill:var(--quiet)}}
svg line.warning{{stroke:var(--warning);stroke-dasharray:5 3}}
svg line.critical{{stroke:var(--critical);stroke-dasharray:5 3}}
svg text.warning{{fill:var(--warning)}}svg text.critical{{fill:var(--critical)}}
.legend{{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;font-size:.92rem;color:var(--muted);
margin:.4rem 0}}
.key{{display:inline-block;width:.9em;height:.9em;border-radius:.15em;margin-right:.4em;
vertical-align:-.08em}}
pre.diff{{background:var(--panel);border:1px solid var(--line);padding:.6rem .8rem;overflow-x:auto;
line-height:1.45}}
pre.diff .line{{text-decoration:none;display:block;min-width:max-content;min-height:1.45em}}
pre.diff ins{{background:var(--added)}}pre.diff del{{background:var(--removed)}}
pre.diff .hunk{{color:var(--muted)}}
details{{margin:.4rem 0}}summary{{cursor:pointer;color:var(--link)}}
dt{{font-weight:600;margin-top:.7rem}}dd{{margin:.1rem 0 0 1rem}}
@media (max-width:36rem){{body{{padding:1rem .8rem 2rem}}h1{{font-size:1.35rem}}
th,td{{padding-right:.6rem}}table.stacked tbody th{{overflow-wrap:anywhere}}
table.stacked thead{{position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden}}
table.stacked,table.stacked tbody,table.stacked tr,table.stacked caption{{display:block}}
table.stacked tr{{border-bottom:1px solid var(--line);padding:.4rem 0}}
table.stacked :is(td,tbody th){{display:block;border:0;padding:.1rem 0;text-align:left}}
table.stacked td::before{{content:attr(data-label) ": ";color:var(--muted)}}}}
@media print{{:root{{color-scheme:light;{_LIGHT}}}
body{{max-width:none;padding:0;font-size:10pt}}
.scroll,pre.diff{{overflow:visible}}pre.diff{{white-space:pre-wrap}}
pre.diff .line{{min-width:0}}
h2,h3,h4,figcaption,caption{{break-after:avoid}}figure,tr,.keep{{break-inside:avoid}}
details::details-content{{content-visibility:visible;block-size:auto}}
.badge,svg *,.key,pre.diff *{{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
a{{color:inherit;text-decoration:none}}nav{{display:none}}}}
"""
