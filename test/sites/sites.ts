// Small web sites of several files, made here: what the page writer is compared on. Each has a page at "/".

import { gzipSync } from "node:zlib";
import { noise, stripes } from "./png.ts";
import type { Routes } from "./web-server.ts";

const LOREM = "The quick brown fox jumps over the lazy dog while a slow circuit carries the page. ".repeat(
  12,
);

/** A magazine: layout by grid, nested imports, backgrounds, pictures in all spellings. */
const magazine: Routes = {
  "/": {
    type: "text/html; charset=utf-8",
    body: `<!DOCTYPE html><html lang=en class="no-js"><head><meta charset=utf-8><title>Magazine</title>
<base href="/assets/"><link rel="dns-prefetch" href="//ads.invalid"><link rel=preload as=script href="app.js">
<link rel="icon" href="icon.png"><link rel=stylesheet href="main.css" media="screen, print">
<link rel=stylesheet href="print.css" media=print><meta http-equiv=refresh content="600">
<script src="app.js"></script><style>@import "extra.css" (min-width: 300px);
h1{background:url( 'stripe-a.png' ) repeat-x bottom;padding-bottom:20px}</style></head>
<body onload="document.body.innerHTML=''"><header><h1>The Circuit</h1><nav><a href="../other.html" ping="/ping">Other</a>
 <a href="#end">End</a> <a href="javascript:alert(1)">Script</a></nav></header>
<main><article><p style="border-image:url(stripe-b.png) 8 stretch;border:8px solid">${LOREM}</p>
<picture><source type="image/webp" media="(max-width: 10px)" srcset="tiny.webp"><source srcset="wide.png 640w, half.png 320w" sizes="320px"><img src="missing.png" alt="wide" width=320></picture>
<img src="stripe-a.png" srcset="stripe-a.png 1x, stripe-a2.png 2x" alt=a><img data-src="lazy.png" alt="">
<noscript><p class=noscript>Shown without scripts <img src="stripe-b.png" alt=b></p></noscript></article>
<aside><svg width=120 height=120 viewBox="0 0 24 24"><use href="sprite.svg#star"/></svg>
<svg width=120 height=60><image href="stripe-b.png" width=60 height=60 /><rect x=60 width=60 height=60 fill="url(#g)"/><defs><linearGradient id=g><stop offset=0 stop-color=red /><stop offset=1 stop-color=blue /></linearGradient></defs></svg>
<form action="/search"><input name=q value=words><input type=image src="stripe-b.png" alt=go width=40 height=20></form></aside></main>
<footer id=end>End</footer></body></html>`,
  },
  "/assets/main.css": {
    type: "text/css",
    body: `@charset "utf-8";@import url("layout/grid.css") layer(base);@import 'layout/loop.css';
body{font:16px/1.4 sans-serif;margin:0;background:#eee url("../assets/stripe-a.png") 0 0/8px}header{background:#fff;padding:1em}
.noscript{outline:3px dashed green}footer{background:image-set("stripe-b.png" 1x, "stripe-b2.png" 2x);height:40px}`,
  },
  "/assets/layout/grid.css": {
    type: "text/css",
    body: `main{display:grid;grid-template-columns:2fr 1fr;gap:20px;padding:20px;background:white}aside{background:url(../stripe-b.png);padding:20px}`,
  },
  "/assets/layout/loop.css": { type: "text/css", body: `@import "loop2.css";h1{color:#802}` },
  "/assets/layout/loop2.css": { type: "text/css", body: `@import "loop.css";h1{letter-spacing:2px}` },
  "/assets/extra.css": { type: "text/css", body: "article p{columns:2}" },
  "/assets/print.css": { type: "text/css", body: "body{display:none}" },
  "/assets/app.js": { type: "text/javascript", body: "document.title='script ran'" },
  "/assets/stripe-a.png": { type: "image/png", body: stripes(64, 32, 0xdd2222, 0xffdddd) },
  "/assets/stripe-a2.png": { type: "image/png", body: stripes(128, 64, 0xdd2222, 0xffdddd) },
  "/assets/stripe-b.png": { type: "image/png", body: stripes(48, 48, 0x2222dd, 0xddddff) },
  "/assets/stripe-b2.png": { type: "image/png", body: stripes(96, 96, 0x2222dd, 0xddddff) },
  "/assets/wide.png": { type: "image/png", body: noise(640, 200, 7) },
  "/assets/half.png": { type: "image/png", body: noise(320, 100, 8) },
  "/assets/sprite.svg": {
    type: "image/svg+xml",
    body: `<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><defs><linearGradient id="g"><stop stop-color="gold"/><stop offset="1" stop-color="green"/></linearGradient></defs><symbol id="star" viewBox="0 0 24 24"><path fill="url(#g)" d="M12 2l3 7h7l-6 4 2 8-6-5-6 5 2-8-6-4h7z"/></symbol></svg>`,
  },
};

/** A page of 1999: no document type, frames, tables, an encoding of its own, attributes for everything. */
const old: Routes = {
  "/": {
    type: "text/html",
    body: Buffer.from(
      `<html><head><meta http-equiv="Content-Type" content="text/html; charset=windows-1251"><title>\xcf\xf0\xe8\xe2\xe5\xf2</title>
<link rel=stylesheet href=old.css></head><body background="tile.png" text=#222222 link=blue onclick=alert(1)>
<center><table border=1 cellpadding=8 background="cell.png" width=80%><tr><td background='tile.png'><font size=5>\xcf\xf0\xe8\xe2\xe5\xf2, \xec\xe8\xf0<td>
<p>${LOREM}<table><tr><td>nested<td><img src=cell.png width=100 height=50></table></table>
<iframe src="frame.html" width=200 height=80></iframe><xmp><b>not bold</b> &amp;</xmp><pre>

two lines down</pre><marquee scrollamount=0>still</marquee></center><b><i>misnested</b> italics</i><p>unclosed <a href=x.html>link`,
      "latin1",
    ),
  },
  "/old.css": { type: "text/css", body: "td{color:#040} td:hover{background:url(never.png)}" },
  "/tile.png": { type: "image/png", body: stripes(20, 20, 0xffffcc, 0xffffff) },
  "/cell.png": { type: "image/png", body: stripes(30, 30, 0xccffcc, 0xeeffee) },
  "/frame.html": { type: "text/html", body: "frame" },
};

/** A gallery: many pictures, styles compressed in transfer, shadow roots, styles that hold markup in strings. */
const gallery: Routes = {
  "/": {
    type: "text/html; charset=utf-8",
    body: `<!DOCTYPE html><title>Gallery</title><link rel="stylesheet" href="/s/gallery.css">
<link rel="alternate stylesheet" href="/s/none.css"><h1>Gallery ☂ 画廊</h1><div class=grid>${Array.from(
      { length: 24 },
      (_, at) =>
        `<figure><img src="/i/${at}.png" loading=lazy alt="${at}"><figcaption>No. ${at}</figcaption></figure>`,
    ).join("")}</div>
<div><template shadowrootmode=open><style>p{color:crimson;background:url(/i/1.png)}</style><p><slot></slot></p></template>in the shadow</div>
<details open><summary>More</summary><video poster="/i/2.png" width=160 height=90 controls src="/film.mp4"></video><object data="/i/3.png" width=90 height=90>none</object></details>`,
  },
  "/s/gallery.css": {
    type: "text/css",
    headers: { "content-encoding": "gzip" },
    body: gzipSync(`@import url(data:text/css,h1%7Btext-decoration%3Aunderline%7D);
.grid{display:grid;grid-template-columns:repeat(6,1fr)}figure{margin:4px;background:#def}
figcaption::after{content:"</style><img src=x>"}h1::before{content:url("/i/4.png")}
@media (width > 400px){figure{border:1px solid #88a}}`),
  },
  ...Object.fromEntries(
    Array.from({ length: 24 }, (_, at) => [
      `/i/${at}.png`,
      { type: "image/png", body: stripes(100, 75, (at * 0x0a1503) & 0xffffff, 0xffffff - at * 0x050607) },
    ]),
  ),
};

export const SITES: Readonly<Record<string, Routes>> = { magazine, old, gallery };
