/* Figures to play with. A chapter's cell stores <figure class="adlib-play" data-play="…"> with a still picture and its
   data (adlib.plots.playable); here each becomes one that can be moved. Paper, and a page without scripts, keep the
   still picture. Every number shown follows from the stored data; tests/book/test_play.py computes it again. */
(() => {
  "use strict";

  // ---- what all figures share: elements, controls, values, scales, pictures ----

  let count = 0;
  const unique = name => `play-${name}-${++count}`;
  const fill = (element, attributes, children) => {
    for (const [name, value] of Object.entries(attributes))
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
    element.append(...children.flat());
    return element;
  };
  const html = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
  const svg = (name, attributes = {}, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
  const set = (element, attributes) => fill(element, attributes, []);
  const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
  const fixed = (x, digits) => x.toFixed(digits).replace("-", "−");
  const percent = share => `${fixed(100 * share, 1).replace(/\.0$/, "")}\u00a0%`;
  const sum = list => list.reduce((a, b) => a + b, 0);

  const bytes = packed => Uint8Array.from(atob(packed.bytes), c => c.charCodeAt(0));

  /** A drawing of width × height units that grows and shrinks with the page. */
  function drawing(width, height, says, ...children) {
    return svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": says}, ...children);
  }

  /** A range input with its name and its value in words. */
  function slider({label, min, max, step = 1, value, words, oninput}) {
    const id = unique("slider"), shown = html("output", {for: id});
    const input = html("input", {type: "range", id, min, max, step, value});
    const say = () => input.setAttribute("aria-valuetext", shown.textContent = words(+input.value));
    input.addEventListener("input", () => { say(); oninput(+input.value); });
    say();
    return {
      row: html("div", {class: "play-slider"}, html("label", {for: id}, label), input, shown), input,
      get value() { return +input.value; },
      put(x, most = null) { if (most !== null) input.max = most; input.value = x; say(); },
    };
  }
  const button = (text, onclick, more = {}) => html("button", {type: "button", onclick, ...more}, text);
  function choice(label, names, onchange) {
    const id = unique("choice"), select = html("select", {id, onchange: () => onchange(+select.value)},
      names.map((name, i) => html("option", {value: i}, name)));
    return group(html("label", {for: id}, label), select);
  }
  function tick(label, checked, onchange) {
    const input = html("input", {type: "checkbox", checked, onchange: () => onchange(input.checked)});
    return html("label", {class: "play-tick"}, input, label);
  }
  /** Named values below a figure, read out when they change. */
  function values(names) {
    const cells = Object.fromEntries(Object.keys(names).map(key => [key, html("dd", {"data-value": key})]));
    const list = html("dl", {class: "play-values", "aria-live": "polite"},
      Object.entries(names).map(([key, name]) => html("div", {}, html("dt", {}, name), cells[key])));
    return {list, say(texts) {
      for (const [key, text] of Object.entries(texts))
        if (cells[key].textContent !== text) cells[key].textContent = text;
    }};
  }
  const panel = (title, ...children) => html("div", {class: "play-panel"},
    title ? html("p", {class: "play-name"}, title) : [], ...children);
  const panels = (...children) => html("div", {class: "play-panels"}, ...children);
  const controls = (...children) => html("div", {class: "play-controls"}, ...children);
  const group = (...children) => html("div", {class: "play-group"}, ...children);

  /** The place of a pointer in the units of a drawing. */
  function place(event, drawn) {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(drawn.getScreenCTM().inverse());
    return [at.x, at.y];
  }
  /** Calls `move` with the place of the pointer while it is down on the drawing. */
  function drag(drawn, move) {
    drawn.addEventListener("pointerdown", event => {
      drawn.setPointerCapture(event.pointerId);
      move(...place(event, drawn));
    });
    drawn.addEventListener("pointermove", event => {
      if (drawn.hasPointerCapture(event.pointerId)) move(...place(event, drawn));
    });
  }

  const INFERNO = [[0, 0, 4], [31, 12, 72], [85, 15, 109], [136, 34, 106], [186, 54, 85], [227, 89, 51],
    [249, 140, 10], [249, 201, 50], [252, 255, 164]];
  const RED_BLUE = [[222, 110, 88], [244, 165, 130], [250, 208, 184], [249, 247, 245], [200, 224, 238],
    [140, 193, 221], [76, 152, 200]];
  function colour(stops, share) {
    const at = clamp(share, 0, 1) * (stops.length - 1), i = Math.min(Math.floor(at), stops.length - 2);
    return stops[i].map((c, k) => Math.round(c + (at - i) * (stops[i + 1][k] - c)));
  }
  /** Numbers, row by row, as the address of a picture with one pixel for each. */
  function painted(numbers, rows, columns, paint) {
    const canvas = html("canvas", {width: columns, height: rows}), context = canvas.getContext("2d");
    const image = context.createImageData(columns, rows);
    numbers.forEach((v, i) => image.data.set([...paint(v), 255], 4 * i));
    context.putImageData(image, 0, 0);
    return canvas.toDataURL();
  }
  const heat = (low, high) => v => colour(INFERNO, (v - low) / (high - low));
  const picture = (href, x, y, size, sharp = false) => svg("image", {href, x, y, width: size, height: size,
    preserveAspectRatio: "none", class: sharp ? "sharp" : null});
  /** The line on which a grid of numbers has a level: a path whose units are cells, (0, 0) the corner of the first. */
  function contour(numbers, rows, columns, level) {
    const at = (r, c) => numbers[clamp(r, 0, rows - 1) * columns + clamp(c, 0, columns - 1)] - level, parts = [];
    for (let r = 0; r < rows - 1; r++)
      for (let c = 0; c < columns - 1; c++) {
        const corner = [[r, c], [r, c + 1], [r + 1, c + 1], [r + 1, c]], cuts = [];
        corner.forEach((p, i) => {
          const q = corner[(i + 1) % 4], a = at(...p), b = at(...q);
          if ((a > 0) !== (b > 0)) { const t = a / (a - b);
            cuts.push([1, 0].map(k => (p[k] + t * (q[k] - p[k]) + 0.5).toFixed(2)).join(" ")); }
        });
        for (let i = 0; i + 1 < cuts.length; i += 2) parts.push(`M${cuts[i]}L${cuts[i + 1]}`);
      }
    return parts.join("");
  }
  /** Axes of a small chart: x and y give places, `names` the words beside them. */
  function axes(box, xs, ys, names, x, y) {
    const [left, top, right, bottom] = box;
    return svg("g", {class: "axes"}, svg("path", {d: `M${left} ${top}V${bottom}H${right}`}),
      xs.map(v => svg("text", {x: x(v), y: bottom + 14, "text-anchor": "middle"}, `${v}`)),
      ys.map(v => svg("text", {x: left - 5, y: y(v) + 4, "text-anchor": "end"}, `${v}`)),
      svg("text", {x: (left + right) / 2, y: bottom + 29, "text-anchor": "middle", class: "axis-name"}, names[0]),
      svg("text", {x: left - 4, y: top - 8, "text-anchor": "start", class: "axis-name"}, names[1]));
  }
  const line = points => points.length ? "M" + points.map(p => p.map(v => v.toFixed(2)).join(" ")).join("L") : "";

  const plays = {};
  // ---- (a) a threshold over scores. data: held, good, bad: scores; promises: rates α ----

  plays.threshold = (data, room) => {
    const all = [...data.held, ...data.good, ...data.bad], low = Math.min(...all), high = Math.max(...all);
    const pad = 0.03 * (high - low), from = Math.floor(100 * (low - pad)) / 100,
      to = Math.ceil(100 * (high + pad)) / 100;
    const width = Math.min(room, 400), dot = 7, x = s => 12 + (s - from) / (to - from) * (width - 24);
    const held = [...data.held].sort((a, b) => a - b), n = held.length;
    const above = (scores, t) => scores.filter(s => s > t).length;
    const order = Math.floor(Math.log10((to - from) / 500)), step = 10 ** Math.max(order, -3);

    // Dots in rows, each on the lowest level on which it touches no other.
    const dots = [], rows = svg("g");
    let bottom = 26;
    for (const [name, scores, kind] of [["held-out good parts", held, "held"], ["good test parts", data.good, "good"],
      ["defective test parts", data.bad, "bad"]]) {
      const last = [], placed = [...scores].sort((a, b) => a - b).map(s => {
        let level = last.findIndex(end => x(s) - end >= dot);
        if (level < 0) level = last.push(0) - 1;
        last[level] = x(s);
        return [s, level];
      });
      const base = bottom + 12 + dot * last.length;
      rows.append(svg("text", {x: 4, y: bottom + 6, class: "row-name"}, `${name} (${scores.length})`),
        svg("path", {d: `M4 ${base + 1}H${width - 4}`, class: "hair"}));
      for (const [s, level] of placed) {
        const mark = svg("circle", {cx: x(s), cy: base - dot / 2 - dot * level, r: 2.9, class: `dot ${kind}`});
        dots.push([s, mark]);
        rows.append(mark);
      }
      bottom = base + 22;
    }
    const height = bottom + 18, shade = svg("rect", {y: 18, height: bottom - 30, class: "shade"});
    const rule = svg("path", {class: "rule"}), grip = svg("path", {class: "grip"});
    const apart = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50].find(v => (to - from) / v <= 7);
    const ticks = Array.from({length: 8}, (_, i) => (Math.ceil(from / apart) + i) * apart).filter(v => v < to);
    const strip = drawing(width, height, "Three rows of dots along the score: held-out good, good and defective parts. " +
      "Right of the threshold the dots are filled.", shade, rows, rule, grip,
      svg("g", {class: "axes"}, ticks.map(v => svg("text", {x: x(v), y: bottom - 2, "text-anchor": "middle"},
        +v.toFixed(2))),
        svg("text", {x: width / 2, y: bottom + 13, "text-anchor": "middle", class: "axis-name"}, "score")));
    strip.classList.add("across", "wide");

    const box = [38, 26, 248, 236], rx = v => box[0] + v * (box[2] - box[0]),
      ry = v => box[3] - v * (box[3] - box[1]);
    const steps = [Infinity, ...[...new Set([...data.good, ...data.bad])].sort((a, b) => b - a), -Infinity];
    const share = (scores, t) => above(scores, t) / scores.length;
    const curve = steps.map(t => [rx(share(data.good, t)), ry(share(data.bad, t))]);
    const point = svg("circle", {r: 6, class: "point"}), guides = svg("path", {class: "guide"});
    const roc = drawing(262, 272, "The ROC curve, with a point at the threshold.",
      axes(box, [0, 0.5, 1], [0, 0.5, 1], ["false alarms", "found"], rx, ry),
      svg("path", {d: line([[rx(0), ry(0)], [rx(1), ry(1)]]), class: "chance"}),
      svg("path", {d: line(curve), class: "curve good"}), guides, point);

    const says = values({threshold: "threshold", alarms: "false alarms", found: "found", bound: "promise"});
    const move = slider({label: "threshold", min: from, max: to, step, value: 0, words: t => fixed(t, 3),
      oninput: show});
    function show(t) {
      for (const [s, mark] of dots) mark.classList.toggle("on", s > t);
      set(shade, {x: x(t), width: Math.max(width - 4 - x(t), 0)});
      set(rule, {d: `M${x(t)} 14V${bottom - 12}`});
      set(grip, {d: `M${x(t) - 7} 4h14v6l-7 8l-7 -8z`});
      const alarms = above(data.good, t), found = above(data.bad, t), over = above(held, t);
      const [px, py] = [rx(alarms / data.good.length), ry(found / data.bad.length)];
      set(point, {cx: px, cy: py});
      set(guides, {d: `M${px} ${box[3]}V${py}H${box[0]}`});
      says.say({threshold: fixed(t, 3), alarms: `${alarms} of ${data.good.length} (${percent(alarms / data.good.length)})`,
        found: `${found} of ${data.bad.length} (${percent(found / data.bad.length)})`,
        bound: `at most ${percent((over + 1) / (n + 1))}`});
    }
    const to_value = t => { move.put(t); show(+move.input.value); };
    drag(strip, at => to_value(from + (at - 12) / (width - 24) * (to - from)));
    // (2.17): the k-th of the n held-out scores.
    const promised = alpha => held[Math.max(Math.ceil((n + 1) * (1 - alpha) - 1e-9), 1) - 1];
    const f1 = t => 2 * above(data.bad, t) / (above(data.bad, t) + above(data.good, t) + data.bad.length);
    const hindsight = () => steps.slice(1, -1).map(s => s - step).reduce((a, b) => f1(b) > f1(a) ? b : a);
    const possible = data.promises.filter(alpha => alpha * (n + 1) >= 1 - 1e-9);
    to_value(promised(possible.at(-1) ?? 0.5));
    return [panels(panel("", strip), panel("", roc)), controls(move.row,
      group(html("span", {}, "promise"), possible.map(alpha => button(percent(alpha),
        () => to_value(promised(alpha))))),
      group(button("best F1 in hindsight", () => to_value(hindsight())))), says.list];
  };

  // ---- (b) a greedy coreset beside a random one. data: points (N, 2); banks: random orders; centres: at the start ----

  plays.coreset = (data, room) => {
    const points = data.points, n = points.length, most = Math.min(60, n);
    const distance = (i, j) => Math.hypot(points[i][0] - points[j][0], points[i][1] - points[j][1]);
    /** Of the first k of an order, for each k: the covering radius (2.5), the farthest point, its nearest centre. */
    function cover(first, length, next) {
      const nearest = points.map(() => Infinity), owner = points.map(() => 0), order = [], found = [];
      for (let k = 0, centre = first; k < length; k++, centre = next(k, found.at(-1).far)) {
        order.push(centre);
        let far = 0;
        for (let i = 0; i < n; i++) {
          const d = distance(i, centre);
          if (d < nearest[i]) { nearest[i] = d; owner[i] = centre; }
          if (nearest[i] > nearest[far]) far = i;
        }
        found.push({radius: nearest[far], far, near: owner[far]});
      }
      return {order, found};
    }
    const greedyFrom = first => cover(first, most, (_, far) => far);
    const banks = data.banks.map(bank => cover(bank[0], bank.length, k => bank[k]));
    let greedy = greedyFrom(0), bank = 0;

    const xs = points.map(p => p[0]), ys = points.map(p => p[1]), size = 330;
    const middle = [(Math.min(...xs) + Math.max(...xs)) / 2, (Math.min(...ys) + Math.max(...ys)) / 2];
    const scale = size / (1.1 * Math.max(Math.max(...xs) - Math.min(...xs), Math.max(...ys) - Math.min(...ys)));
    const tall = Math.min(size, scale * 1.28 * (Math.max(...ys) - Math.min(...ys)));
    const X = i => size / 2 + scale * (points[i][0] - middle[0]),
      Y = i => tall / 2 - scale * (points[i][1] - middle[1]);
    const cloud = () => svg("g", {class: "cloud"}, points.map((_, i) => svg("circle", {cx: X(i), cy: Y(i), r: 1.7})));
    const layers = ["greedy", "random"].map(name => {
      const clip = unique("clip"), marks = svg("g");
      const circles = ["discs", "circles"].map(kind => svg("g", {class: kind}));
      const drawn = drawing(size, tall, `Points in the plane with the centres of the ${name} bank. Circles of the covering ` +
        "radius hold every point; a dashed line ends at the point that is covered worst.",
        svg("clipPath", {id: clip}, svg("rect", {width: size, height: tall, rx: 4})),
        svg("g", {"clip-path": `url(#${clip})`}, svg("rect", {width: size, height: tall, class: "ground"}), circles,
          cloud(), marks));
      return {drawn, draw({order, found}, k) {
        const {radius, far, near} = found[k - 1];
        for (const layer of circles)
          layer.replaceChildren(...order.slice(0, k).map(i => svg("circle",
            {cx: X(i), cy: Y(i), r: scale * radius})));
        marks.replaceChildren(
          svg("path", {d: `M${X(near)} ${Y(near)}L${X(far)} ${Y(far)}`, class: "reach"}),
          ...order.slice(0, k).map((i, at) => svg("path", {d: `M${X(i)} ${Y(i) - 5.5}l5 5.5l-5 5.5l-5 -5.5z`,
            class: at === k - 1 ? "centre last" : "centre"})),
          svg("circle", {cx: X(far), cy: Y(far), r: 5, class: "worst"}));
        return radius;
      }};
    });

    const box = [32, 24, room - 14, 150], top = 1.05 * Math.max(greedy.found[0].radius,
      ...banks.map(b => b.found[0].radius));
    const long = data.banks[0].length, cx = k => box[0] + Math.log(k) / Math.log(long) * (box[2] - box[0]);
    const cy = r => box[3] - r / top * (box[3] - box[1]);
    const paths = {greedy: svg("path", {class: "curve bad"}), random: svg("path", {class: "curve good"})};
    const spots = {greedy: svg("circle", {r: 5, class: "spot bad"}),
      random: svg("circle", {r: 5, class: "spot good"})};
    const level = svg("path", {class: "guide"}), meet = svg("circle", {r: 5, class: "spot open"});
    const names = {greedy: svg("text", {class: "on-curve"}, "greedy"),
      random: svg("text", {class: "on-curve"}, "random")};
    const chart = drawing(room, 186, "The covering radius over the number of centres, for both banks.",
      axes(box, [1, 2, 5, 10, 20, 50, 100, 200, 500].filter(k => k <= long), [0, 2, 4, 6, 8].filter(r => r < top),
        ["centres", "covering radius"], cx, cy),
      level, Object.values(paths), Object.values(spots), meet, Object.values(names));

    const says = values({centres: "centres", greedy: "greedy radius", random: "random radius",
      needed: "random, as good"});
    const move = slider({label: "centres", min: 1, max: most, value: data.centres, words: k => `${k}`,
      oninput: show});
    function show(k) {
      const other = banks[bank], r = layers[0].draw(greedy, k), random = layers[1].draw(other, k);
      const needed = other.found.findIndex(f => f.radius <= r) + 1;
      for (const [name, {found}] of [["greedy", greedy], ["random", other]]) {
        set(paths[name], {d: line(found.map((f, i) => [cx(i + 1), cy(f.radius)]))});
        set(spots[name], {cx: cx(k), cy: cy(found[k - 1].radius)});
        const at = Math.min(name === "greedy" ? most : 130, found.length);
        set(names[name], {x: cx(at) + 6, y: cy(found[at - 1].radius) + (name === "greedy" ? 5 : -7)});
      }
      set(level, {d: needed ? `M${cx(k)} ${cy(r)}H${cx(needed)}V${box[3]}` : `M${cx(k)} ${cy(r)}H${box[2]}`});
      set(meet, {cx: cx(needed || long), cy: cy(r), visibility: needed ? "visible" : "hidden"});
      says.say({centres: `${k}`, greedy: fixed(r, 3), random: fixed(random, 3),
        needed: needed ? `${needed} centres` : `more than ${long} centres`});
    }
    const go = k => { stop(); move.put(clamp(k, 1, most)); show(move.value); };
    const anew = first => { greedy = greedyFrom(first); show(move.value); };
    let timer = null;
    const stop = () => { clearInterval(timer); timer = null; play.textContent = "Play"; };
    const play = button("Play", () => {
      if (timer) return stop();
      play.textContent = "Pause";
      if (move.value === most) move.put(1);
      show(move.value);
      timer = setInterval(() => {
        move.put(move.value + 1);
        show(move.value);
        if (move.value === most) stop();
      }, 450);
    });
    drag(layers[0].drawn, (x, y) => anew(points.map((_, i) => Math.hypot(X(i) - x, Y(i) - y))
      .reduce((best, d, i, all) => d < all[best] ? i : best, 0)));
    layers[0].drawn.classList.add("touch");
    show(move.value);
    move.input.addEventListener("pointerdown", stop);
    return [panels(panel("Greedy. Touch a point to start there.", layers[0].drawn),
      panel("Random, as many", layers[1].drawn)),
      controls(move.row, group(button("One back", () => go(move.value - 1)),
        button("One more", () => go(move.value + 1)), play),
        group(button("Other start", () => anew((greedy.order[0] + 211) % n)),
          button("Other random bank", () => { bank = (bank + 1) % banks.length; show(move.value); }))),
      chart, says.list];
  };

  // ---- (c) what a cell can see. data: picture, side; operations: name, window, stride, pad; maps: {operation: bytes} ----

  plays.field = data => {
    const side = data.side, last = data.operations.length, rim = 32, whole = side + 2 * rim;
    /** Equations (1.1) to (1.3) after each operation, with the number of cells a side. */
    function walk(strides, averaged, l) {
      let at = {field: 1, step: 1, start: 0, cells: side}, before = at;
      const windows = data.operations.slice(0, l).map(o => ({...o, stride: strides ? o.stride : 1}));
      for (const o of averaged ? [...windows, {window: 3, stride: 1, pad: 1}] : windows) {
        before = at;
        at = {field: at.field + (o.window - 1) * at.step, step: at.step * o.stride, start: at.start - o.pad * at.step,
          cells: Math.floor((at.cells + 2 * o.pad - o.window) / o.stride) + 1, window: o.window};
      }
      return [at, before];
    }
    const ground = svg("g"), cell = svg("rect", {class: "picked"});
    const map = drawing(side, side, "The feature map, as a grid of cells. One cell is marked.", ground, cell);
    const dim = svg("path", {class: "dim", "fill-rule": "evenodd"}), frame = svg("rect", {class: "frame"});
    const view = drawing(whole, whole, "The picture. The pixels that the marked cell can see are bright, with a frame around.",
      svg("rect", {width: whole, height: whole, class: "outside"}), picture(data.picture, rim, rim, side), dim,
        frame);
    const says = values({map: "the map", sees: "a cell can see", pixels: "this cell", seen: "of the picture"});
    let strides = true, averaged = false, at = null, spot = [0.5, 0.5];

    const move = slider({label: "operation", min: 1, max: last, value: data.start ?? last,
      words: l => `${l} of ${last}${data.operations[l - 1].layer ? `, end of ${data.operations[l - 1].layer}` : ""}`,
      oninput: show});
    const along = ["row", "column"].map((label, k) => slider({label, min: 0, max: 1, value: 0, words: i => `${i}`,
      oninput: i => { spot[k] = (i + 0.5) / at.cells; mark(); }}));
    const sum = html("p", {class: "play-sum"});
    function show() {
      const l = move.value, o = data.operations[l - 1], [now, before] = walk(strides, averaged, l);
      at = now;
      const stored = strides && !averaged ? data.maps[l - 1] : null;
      const shown = stored ? painted(bytes(stored), at.cells, at.cells, heat(0, 255)) : data.picture;
      ground.replaceChildren(svg("rect", {width: side, height: side, class: "empty"}),
        set(picture(shown, 0, 0, side, true), {opacity: stored ? 1 : 0.4}));
      const unit = side / at.cells, lines = at.cells > 60 ? [] : Array.from({length: at.cells - 1},
        (_, i) => (i + 1) * unit);
      ground.append(svg("path", {class: stored ? "grid light" : "grid",
        d: lines.map(v => `M${v.toFixed(2)} 0V${side}M0 ${v.toFixed(2)}H${side}`).join("")}));
      sum.textContent = (averaged ? "Mean of 3 × 3 cells: " : `Operation ${l}, ${o.name}: `) +
        `${before.field} + (${at.window} − 1) · ${before.step} = ${at.field} pixels`;
      mark();
    }
    function mark() {
      const [i, j] = spot.map(s => clamp(Math.floor(s * at.cells), 0, at.cells - 1)), unit = side / at.cells;
      along.forEach((s, k) => s.put([i, j][k], at.cells - 1));
      set(cell, {x: j * unit, y: i * unit, width: unit, height: unit});
      const [top, left] = [i, j].map(k => at.start + k * at.step), f = at.field;
      set(dim, {d: `M0 0H${whole}V${whole}H0ZM${left + rim} ${top + rim}h${f}v${f}h${-f}Z`});
      set(frame, {x: left + rim, y: top + rim, width: f, height: f});
      const ends = [top, left].map(a => [Math.max(a, 0), Math.min(a + f, side) - 1]);
      const inside = ends.map(([a, b]) => Math.max(b - a + 1, 0));
      says.say({map: `${at.cells} × ${at.cells}, a cell every ${at.step} pixel${at.step > 1 ? "s" : ""}`,
        sees: `${f} × ${f} pixels`,
        pixels: `rows ${ends[0].join(" to ")}, columns ${ends[1].join(" to ")}`,
          seen: percent(inside[0] * inside[1] / side ** 2)});
    }
    drag(map, (x, y) => { spot = [clamp(y / side, 0, 0.9999), clamp(x / side, 0, 0.9999)]; mark(); });
    map.classList.add("touch");
    show();
    return [panels(panel("The map. Touch a cell.", map), panel("What it can see of the picture", view)), sum,
      controls(move.row, ...along.map(s => s.row),
        group(tick("mean of 3 × 3 cells", false, on => { averaged = on; show(); }),
          tick("all strides 1", false, on => { strides = !on; show(); }))), says.list];
  };

  // ---- (d) image and map. data: ways; parts: product, kind, picture, truth (bits), maps: {way: bytes, 100 the limit} ----

  plays.wipe = data => {
    const size = 360, clip = unique("clip"), window_ = svg("rect", {y: 0, height: size});
    const under = svg("g"), over = svg("g", {"clip-path": `url(#${clip})`}), truth = svg("path", {class: "truth"});
    const rule = svg("path", {class: "wipe-rule"}), grip = svg("g", {class: "wipe-grip"}, svg("circle", {r: 13}),
      svg("path", {d: "M-3 -5l-5 5l5 5M3 -5l5 5l-5 5"}));
    const drawn = drawing(size, size, "A picture, and right of a line the anomaly map over it.",
      svg("clipPath", {id: clip}, window_), under, over, truth, rule, grip);
    drawn.classList.add("across");
    const bars = data.ways.map(way => ({way, bar: html("i"), share: html("b")}));
    const list = html("div", {class: "play-bars"}, html("p", {class: "play-name"},
      "Largest value; the line is the limit, 1"),
      bars.map(({way, bar, share}, k) => html("div", {class: "play-bar", "data-way": way}, html("span", {}, way),
        html("em", {}, bar), share)));
    const says = values({part: "part", way: "map of", peak: "largest value", outcome: "at the limit"});
    let part = 0, way = 0;
    const peak = (p, w) => Math.max(...bytes(data.parts[p].maps[data.ways[w]])) / 100;
    const move = slider({label: "map from the right", min: 0, max: 100, value: data.open ?? 50,
      words: v => `${v} %`, oninput: show});
    const buttons = data.ways.map((name, k) => button(name, () => { way = k; load(); }));
    function load() {
      const p = data.parts[part], packed = p.maps[data.ways[way]], [rows, columns] = packed.shape,
        map = bytes(packed);
      under.replaceChildren(picture(p.picture, 0, 0, size));
      over.replaceChildren(set(picture(painted(map, rows, columns, heat(0, 200)), 0, 0, size), {opacity: 0.85}),
        svg("path", {d: contour(map, rows, columns, 100.5), transform: `scale(${size / columns} ${size / rows})`,
          class: "level"}));
      const bits = bytes(p.truth), [h, w] = p.truth.shape,
        mask = Array.from({length: 8 * h * w}, (_, i) => bits[i >> 3] >> (7 - i % 8) & 1);
      set(truth, {d: contour(mask, h, 8 * w, 0.5), transform: `scale(${size / (8 * w)} ${size / h})`});
      buttons.forEach((b, k) => b.setAttribute("aria-pressed", k === way));
      bars.forEach(({bar, share}, k) => {
        const v = peak(part, k);
        bar.style.width = `${Math.min(v / 2.55, 1) * 100}%`;
        bar.parentElement.parentElement.classList.toggle("is-on", v > 1.004);
        share.textContent = fixed(v, 2);
      });
      const v = peak(part, way);
      says.say({part: `${p.product}: ${p.kind}`, way: data.ways[way], peak: v >= 2.55 ? "2.55 or more" : fixed(v, 2),
        outcome: v > 1.004 ? "found" : "missed"});
    }
    function show(v) {
      const at = size * (1 - v / 100);
      set(window_, {x: at, width: size - at});
      set(rule, {d: `M${at} 0V${size}`});
      set(grip, {transform: `translate(${clamp(at, 14, size - 14)} ${size / 2})`});
    }
    drag(drawn, x => { move.put(Math.round(100 * (1 - clamp(x / size, 0, 1)))); show(move.value); });
    load();
    show(move.value);
    set(truth, {visibility: "hidden"});
    return [panels(panel("", drawn), panel("", list,
      choice("part", data.parts.map(p => `${p.product}: ${p.kind}`), i => { part = i; load(); }),
      group(...buttons), group(tick("outline of the true defect", false,
        on => set(truth, {visibility: on ? "visible" : "hidden"}))))),
      controls(move.row), says.list];
  };

  // ---- (e) the noise of SimpleNet. data: sigmas; surfaces: bytes, 127 is D = 0; extent; points; noise; losses ----

  plays.noise = data => {
    const [left, right, bottom, top] = data.extent, width = 430, scale = width / (right - left),
      height = scale * (top - bottom);
    const X = x => scale * (x - left), Y = y => height - scale * (y - bottom);
    const [rows, columns] = data.surfaces[0].shape, surfaces = data.surfaces.map(bytes);
    const clip = unique("clip"), field = svg("g"), edge = svg("path", {class: "edge"}),
      copies = svg("g", {class: "copies"});
    const moved = data.points.map(() => svg("circle", {r: 2}));
    const drawn = drawing(width, height, "The plane. Blue is where D is positive and a feature counts as normal, red where it is " +
      "negative, with a black line between. Dark dots are normal features on a bow, open dots their noisy copies.",
      svg("clipPath", {id: clip}, svg("rect", {width, height, rx: 4})),
      svg("g", {"clip-path": `url(#${clip})`}, field, edge, fill(copies, {}, moved),
        svg("g", {class: "points"}, data.points.map(p => svg("circle", {cx: X(p[0]), cy: Y(p[1]), r: 2.2})))));
    const box = [40, 26, 232, 176], s = data.sigmas,
      cx = v => box[0] + Math.log(v / s[0]) / Math.log(s.at(-1) / s[0]) * (box[2] - box[0]);
    const cy = v => box[3] - v * (box[3] - box[1]), spot = svg("circle", {r: 5.5, class: "point"});
    const area = surfaces.map(surface => surface.filter(v => v > 127).length / surface.length),
      mark = svg("circle", {r: 4.5, class: "spot good"});
    const chart = drawing(248, 214, "The loss at the end of the training, and the share of the plane that counts as normal, over the noise.",
      axes(box, [s[0], 0.2, s.at(-1)], [0, 0.5, 1], ["noise σ", ""], cx, cy),
      svg("path", {d: line(s.map((v, i) => [cx(v), cy(data.losses[i])])), class: "curve bad"}),
      svg("path", {d: line(s.map((v, i) => [cx(v), cy(area[i])])), class: "curve good dashed"}), spot, mark,
      svg("text", {x: cx(s.at(-4)) + 8, y: cy(data.losses.at(-4)) - 8, class: "on-curve"}, "loss"),
      svg("text", {x: cx(s[1]), y: cy(area[2]) - 12, class: "on-curve"}, "share that is normal"));
    drawn.classList.add("wide");
    const says = values({sigma: "noise σ", loss: "loss at the end", area: "normal, of the plane",
      apart: "length of the noise"});
    const move = slider({label: "noise σ", min: 0, max: s.length - 1, value: data.start ?? 0, words: i => `${s[i]}`,
      oninput: show});
    function show(i) {
      field.replaceChildren(picture(painted(surfaces[i], rows, columns, v => colour(RED_BLUE, v / 254)), 0, 0,
        width));
      set(field.firstChild, {height});
      set(edge, {d: contour(surfaces[i], rows, columns, 127.5),
        transform: `scale(${width / columns} ${height / rows})`});
      moved.forEach((circle, k) => set(circle, {cx: X(data.points[k][0] + s[i] * data.noise[k][0]),
        cy: Y(data.points[k][1] + s[i] * data.noise[k][1])}));
      set(spot, {cx: cx(s[i]), cy: cy(data.losses[i])});
      set(mark, {cx: cx(s[i]), cy: cy(area[i])});
      const far = s[i] * sum(data.noise.map(e => Math.hypot(...e))) / data.noise.length;
      says.say({sigma: `${s[i]}`, loss: fixed(data.losses[i], 2), area: percent(area[i]), apart: fixed(far, 2)});
    }
    show(move.value);
    return [panels(panel("", drawn), panel("", chart)), controls(move.row,
      group(tick("noisy copies, rings", true, on => set(copies, {visibility: on ? "visible" : "hidden"})))), says.list];
  };

  // ---- (f) two maps and the weight between them. data: parts: name, type, picture, student, autoencoder (h, w) ----

  plays.mix = data => {
    const size = 100, cells = data.parts[0].student.length,
      flat = data.parts.map(p => [p.student.flat(), p.autoencoder.flat()]);
    // Without padding a map covers the inner part of the picture only.
    const paint = heat(0, data.top), rim = size * data.rim, unit = (size - 2 * rim) / cells;
    const inner = numbers => [svg("rect", {width: size, height: size, class: "unmeasured"}),
      picture(painted(numbers, cells, cells, paint), rim, rim, size - 2 * rim, true)];
    const image = (numbers, says) => drawing(size, size, says, inner(numbers));
    const rows = data.parts.map((p, k) => {
      const mixed = svg("g"), mark = svg("rect", {class: "picked", width: unit, height: unit});
      const bar = html("i"), limit = html("u"), largest = html("b", {"data-largest": p.name});
      return {k, mixed, mark, bar, limit, largest, row: html("div", {class: "play-row", "data-part": p.name},
        html("p", {class: "play-name"}, p.name, p.type === p.name ? [] : html("small", {}, p.type)),
        drawing(size, size, `A tray: ${p.name}.`, picture(p.picture, 0, 0, size)),
          image(flat[k][0], "The student's map."),
        drawing(size, size, "Both maps mixed, with a mark at the largest value.", mixed, mark),
        image(flat[k][1], "The autoencoder's map."),
        html("div", {class: "play-score"}, html("em", {}, bar, limit), largest))};
    });
    const says = values({weight: "weights", limit: "good tray, the line", structural: "structural",
      logical: "logical"});
    const move = slider({label: "weight of the autoencoder's map", min: 0, max: 100, step: 5, value: 50,
      words: v => fixed(v / 100, 2), oninput: show});
    const type = name => data.parts.map((p, k) => p.type === name ? k : -1).filter(k => k >= 0);
    function show(v) {
      const w = v / 100, maps = flat.map(([a, b]) => a.map((x, i) => (1 - w) * x + w * b[i])),
        peaks = maps.map(m => Math.max(...m));
      const limit = Math.max(...type("good").map(k => peaks[k])), full = 2 * data.top;
      for (const r of rows) {
        r.mixed.replaceChildren(...inner(maps[r.k]));
        const at = maps[r.k].indexOf(peaks[r.k]);
        set(r.mark, {x: rim + at % cells * unit, y: rim + Math.floor(at / cells) * unit});
        r.bar.style.width = `${clamp(peaks[r.k] / full, 0, 1) * 100}%`;
        r.limit.style.left = `${clamp(limit / full, 0, 1) * 100}%`;
        r.row.classList.toggle("is-on", peaks[r.k] > limit);
        r.largest.textContent = fixed(peaks[r.k], 3);
      }
      const word = name => type(name).map(k => `${fixed(peaks[k], 3)}, ${peaks[k] > limit ? "above" : "not above"}`).join("; ");
      says.say({weight: `${fixed(1 - w, 2)} student, ${fixed(w, 2)} autoencoder`, limit: fixed(limit, 3),
        structural: word("structural"), logical: word("logical")});
    }
    show(move.value);
    return [html("div", {class: "play-table"}, html("div", {class: "play-row play-head", "aria-hidden": "true"},
      ["", "tray", "student", "mixed", "autoencoder", "largest value"].map(t => html("span", {}, t))),
        rows.map(r => r.row)),
      controls(move.row, group(button("student alone", () => { move.put(0); show(0); }),
        button("half and half", () => { move.put(50); show(50); }),
          button("autoencoder alone", () => { move.put(100); show(100); }))), says.list];
  };

  // ---- start ----

  function start(figure) {
    const data = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
    const room = clamp(figure.clientWidth - 34, 270, 690);  // so that letters keep their size on a phone
    const stage = html("div", {class: "play-stage"},
      html("p", {class: "play-title"}, figure.dataset.title), ...plays[figure.dataset.play](data, room));
    figure.prepend(stage);
    figure.classList.add("is-live");
  }
  const startAll = () => document.querySelectorAll("figure.adlib-play:not(.is-live)").forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
  else startAll();
})();
