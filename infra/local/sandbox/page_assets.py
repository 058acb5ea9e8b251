"""The pages' style and script: inline, so that nothing is fetched from anywhere.

Law: constants alone. The script only swaps in what the server rendered and escaped.
"""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--ink:#1d2733;--soft:#5d6b7a;--line:#dfe5ec;--bg:#f4f6f9;--card:#fff;--brand:#0b6b5d;--tint:#e5f3f0;
--warn:#fff4d6;--warnink:#6b4e00;--fresh:#fff3b8}
@media(prefers-color-scheme:dark){:root{--ink:#e4eaf1;--soft:#97a5b5;--line:#2b3644;--bg:#11171f;--card:#19212c;--brand:#4fc3ae;
--tint:#16302c;--warn:#3a2f10;--warnink:#f3d98a;--fresh:#4a4318}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
a{color:var(--brand);text-decoration:none}a:hover{text-decoration:underline}
.banner{background:var(--warn);color:var(--warnink);padding:.45rem 1.2rem;font-size:.86rem}
header{padding:1.1rem 1.2rem .4rem;max-width:1380px;margin:auto}h1{margin:.1rem 0;font-size:1.5rem;line-height:1.25}h2{font-size:1.02rem;margin:0 0 .7rem}
.crumb,.when,.hint{color:var(--soft);font-size:.86rem}
main{max-width:1380px;margin:auto;padding:.6rem 1.2rem 3rem}
.cols{display:grid;grid-template-columns:minmax(250px,1fr) minmax(280px,1.15fr) minmax(310px,1.25fr);gap:1rem;align-items:start}
@media(max-width:1000px){.cols{grid-template-columns:1fr}.insight{order:-1}}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:1rem 1.1rem;overflow-wrap:anywhere}
.insight{border-color:var(--brand);box-shadow:0 0 0 3px var(--tint)}
dl{margin:0}dt{color:var(--soft);font-size:.8rem;margin-top:.65rem}dd{margin:.05rem 0 0;white-space:pre-wrap}dd:empty::after{content:"–";color:var(--soft)}
.score{display:flex;gap:.9rem;align-items:center;margin:.2rem 0 .5rem}.score b{font-size:2.3rem;line-height:1;color:var(--brand)}
.bar{flex:1;height:9px;border-radius:9px;background:var(--line);overflow:hidden}.bar i{display:block;height:100%;background:var(--brand)}
.grade{border:2px solid var(--brand);color:var(--brand);border-radius:8px;padding:.05rem .5rem;font-weight:700}
.item{border-left:3px solid var(--line);padding:.1rem 0 .1rem .8rem;margin:0 0 1rem}.item p{margin:.2rem 0 0;white-space:pre-wrap}
table{border-collapse:collapse;width:100%}th{text-align:left;color:var(--soft);font-weight:500;font-size:.82rem}
th,td{padding:.42rem .6rem .42rem 0;border-bottom:1px solid var(--line);vertical-align:top}td.n{text-align:right;font-variant-numeric:tabular-nums}
.grid{display:grid;gap:1rem}details>summary{cursor:pointer;font-weight:600}.pill{background:var(--tint);color:var(--brand);border-radius:9px;padding:.05rem .5rem;font-size:.8rem}
.new{animation:fresh 4s ease-out}@keyframes fresh{from{background:var(--fresh)}to{background:transparent}}
.gone{color:#b3261e;font-weight:600}
"""

SCRIPT = """
const live=document.querySelector('[data-live]');let last=live.innerHTML;
const read=()=>Object.fromEntries([...live.querySelectorAll('[data-k]')].map(e=>[e.dataset.k,e.textContent]));
async function look(){try{const r=await fetch(live.dataset.live,{cache:'no-store'});if(r.ok){const t=await r.text();if(t!==last){
const before=read();const open=[...live.querySelectorAll('details')].map(d=>d.open);live.innerHTML=t;last=t;
live.querySelectorAll('details').forEach((d,i)=>{if(open[i]!==undefined)d.open=open[i]});
for(const e of live.querySelectorAll('[data-k]'))if(before[e.dataset.k]!==e.textContent)e.classList.add('new');}}}catch(e){}
setTimeout(look,document.hidden?4000:700)}setTimeout(look,700);
"""
