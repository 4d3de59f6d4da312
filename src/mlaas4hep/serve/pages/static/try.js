// The form of a model: reads the fields, asks the server that the page came from, draws the answer.
//
// A value travels as it was typed, so that no digit of it is lost. Whatever comes back is put in as text.
"use strict";

(() => {
  const form = document.getElementById("question");
  if (!form) return;
  const about = JSON.parse(form.dataset.form);
  const COLOURS = ["#5790fc", "#f89c20", "#e42536", "#964a8b", "#9c9ca1", "#7a21dd"];
  const WORDS = { nan: "null", none: "null", null: "null", inf: '"Infinity"', infinity: '"Infinity"',
    "-inf": '"-Infinity"', "-infinity": '"-Infinity"' };
  const NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?$/;
  const KEPT = "mlaas4hep-token";
  const MOST_BARS = 10, MOST_LETTERS = 20000, PREVIEW = 240;
  const find = (id) => document.getElementById(id);

  class Unreadable extends Error {
    constructor(field, text) {
      super(text);
      this.field = field;
    }
  }

  // What stands in a field as the text of a JSON value.
  function read(field) {
    const name = field.dataset.name;
    if (field.type === "checkbox") return String(field.checked);
    const typed = field.value.trim();
    if (field.dataset.kind === "flat") {
      if (typed === "") {
        if (field.dataset.dtype.startsWith("float")) return "null";
        throw new Unreadable(field, `${name}: a whole number is never missing`);
      }
      const found = WORDS[typed.toLowerCase()] ?? (NUMBER.test(typed) ? typed : null);
      if (found === null) throw new Unreadable(field, `${name}: asked for a number, found '${typed}'`);
      return found;
    }
    const scalar = field.dataset.kind === "tensor" && about.shapes[name].length === 0;
    const plain = typed.replace(/(?<![\w"])-?(?:nan|none|inf|infinity)(?![\w"])/gi, (word) => WORDS[word.toLowerCase()] ?? word);
    const text = scalar ? plain : `[${plain}]`;
    try {
      JSON.parse(text);
    } catch (error) {
      throw new Unreadable(field, `${name}: asked for ${scalar ? "a value" : "values with commas between"}: ${error.message}`);
    }
    return text;
  }

  // What is sent: its type, its body, and the body in words.
  function question() {
    if (about.kind !== "picture") {
      const body = text();
      return { type: "application/json", body, words: body };
    }
    find("picture").removeAttribute("aria-invalid");
    const [file] = find("picture").files;
    if (!file) throw new Unreadable(find("picture"), "choose a picture first");
    const type = file.type === "image/jpeg" ? file.type : "image/png";  // the server looks at the bytes
    return { type, body: file, words: `(the ${file.size.toLocaleString("en")} bytes of ${file.name})` };
  }

  function text() {
    const fields = [...form.querySelectorAll("[data-name]")];
    for (const field of fields) field.removeAttribute("aria-invalid");
    if (about.kind === "events") {
      const columns = fields.map((field) => `${JSON.stringify(field.dataset.name)}: ${read(field)}`);
      return `{"instances": [{${columns.join(", ")}}]}`;
    }
    const tensors = fields.map((field) => {
      const name = field.dataset.name;
      const head = JSON.stringify({ name, shape: about.shapes[name], datatype: about.datatypes[name] });
      return `${head.slice(0, -1)},"data":${read(field)}}`;
    });
    return `{"inputs": [${tensors.join(", ")}]}`;
  }

  function bar(name, value, share, number) {
    const row = document.createElement("div");
    row.className = "bar";
    const parts = ["name", "track", "value"].map((kind) => {
      const part = document.createElement("div");
      part.className = kind;
      row.append(part);
      return part;
    });
    parts[0].textContent = name;
    parts[2].textContent = value === null ? "none" : Number(value.toPrecision(5)).toString();
    const fill = document.createElement("div");
    fill.className = "fill";
    fill.style.width = `${100 * Math.min(Math.max(share, 0), 1)}%`;
    fill.style.background = COLOURS[number % COLOURS.length];
    parts[1].append(fill);
    find("bars").append(row);
  }

  // One score, of which `whole` is that of the model; of a regression on the range of its target.
  function drawScore(name, value, whole, number) {
    if (about.task !== "regression") return bar(name, value, value ?? 0, number);
    const [low, high] = about.ranges[whole] ?? [null, null];
    const known = value !== null && low !== null && high > low;
    bar(known ? `${name} (${low.toPrecision(4)} to ${high.toPrecision(4)})` : name, value, known ? (value - low) / (high - low) : 0, number);
  }

  function drawEvents(answer) {
    const scores = answer.predictions[0];
    if (scores === null) {
      find("verdict").textContent = "Not selected";
      find("told").textContent = `The event does not pass ${about.preselection}`;
      return;
    }
    if (about.task === "regression") {
      find("verdict").textContent = "Predicted";
      about.scores.forEach((name, number) => drawScore(name, scores[name], name, number));
      drawMembers(scores);
      find("told").textContent = "A bar goes from the least to the largest value of the training part.";
      return;
    }
    const values = about.classes.map((name) => {
      if (name in scores) return scores[name];
      const other = scores[about.scores[0]];
      return other === null ? null : 1 - other;
    });
    const best = values.indexOf(Math.max(...values));
    find("verdict").textContent = best < 0 ? "Scores" : `Most like ${about.classes[best]}`;
    about.classes.forEach((name, number) => bar(name, values[number], values[number] ?? 0, number));
    drawMembers(scores);
    if (about.task === "binary") find("told").textContent = `The model gives the score of ${about.scores[0]}; the other is one minus that.`;
  }

  // Scores of the models that this one is made of, as those of the whole are drawn.
  function drawMembers(scores) {
    if (about.members.length) heading("Its members");
    about.members.forEach(([name, whole], number) => drawScore(name, scores[name], whole, number));
  }

  function drawPicture(answer) {
    const groups = new Map([["", []]]);
    for (const [name, value] of Object.entries(answer.predictions[0])) {
      if (!Array.isArray(value)) groups.get("").push([name, value]);
      else groups.set(name, value.flat(Infinity).map((one, number) => [about.labels[name]?.[number] ?? `${name}[${number}]`, one]));
    }
    const shown = [...groups].filter(([, values]) => values.length && values.every(([, one]) => one === null || typeof one === "number"));
    const [best] = [...groups.get("")].sort(([, one], [, other]) => other - one);  // answered by label
    find("verdict").textContent = best ? `Most like ${best[0]}` : "Answered";
    for (const [name, values] of shown) {
      if (shown.length > 1) heading(name);
      drawLargest(values);
    }
  }

  function drawLargest(values) {
    const sorted = [...values].sort(([, one], [, other]) => (other ?? -Infinity) - (one ?? -Infinity));
    const few = values.length <= MOST_BARS, drawn = few ? values : sorted.slice(0, MOST_BARS);
    const largest = Math.max(1, ...drawn.map(([, one]) => Math.abs(one ?? 0)));
    drawn.forEach(([name, value], number) => bar(name, value, Math.abs(value ?? 0) / largest, number));
    if (!few) find("told").textContent = `The ${MOST_BARS} largest of ${values.length.toLocaleString("en")} values.`;
  }

  function heading(words) {
    const one = document.createElement("p");
    one.className = "state";
    one.textContent = words;
    find("bars").append(one);
  }

  function drawTensors(answer) {
    find("verdict").textContent = "Answered";
    for (const output of answer.outputs) {
      const numbers = output.data.flat(Infinity);
      if (numbers.length > 32 || !numbers.every((one) => one === null || typeof one === "number")) continue;
      const largest = Math.max(1, ...numbers.map((one) => Math.abs(one ?? 0)));
      const labels = about.labels[output.name] ?? [];
      numbers.forEach((value, number) => {
        const name = labels[number] ?? (numbers.length > 1 ? `${output.name}[${number}]` : output.name);
        bar(name, value, Math.abs(value ?? 0) / largest, number);
      });
    }
  }

  function clear(title) {
    find("answer").hidden = false;
    find("verdict").textContent = title;
    find("told").className = "";
    for (const id of ["bars", "told", "sent", "got"]) find(id).replaceChildren();
  }

  async function ask(button) {
    let asked;
    try {
      asked = question();
    } catch (error) {
      if (!(error instanceof Unreadable)) throw error;
      clear("");
      fail("This cannot be asked", error.message);
      error.field.setAttribute("aria-invalid", "true");
      error.field.focus();
      return;
    }
    const headers = { "Content-Type": asked.type };
    const token = find("token")?.value.trim();
    if (token) {
      headers.Authorization = `Bearer ${token}`;
      sessionStorage.setItem(KEPT, token);
    }
    clear("Asking");
    find("sent").textContent = `POST /${about.path}\nContent-Type: ${asked.type}\n\n${asked.words}`;
    button.disabled = true;
    try {
      const began = performance.now();
      const response = await fetch(form.dataset.root + about.path, { method: "POST", headers, body: asked.body, credentials: "omit" });
      const text = await response.text();
      find("got").textContent = `${response.status}, ${(performance.now() - began).toFixed(1)} ms\n\n${shortened(text)}`;
      const answer = JSON.parse(text);
      if (!response.ok) {
        fail("Refused", answer.error);
      } else ({ events: drawEvents, picture: drawPicture, tensors: drawTensors })[about.kind](answer);
    } catch (error) {
      fail("No answer", error.message);
    } finally {
      button.disabled = false;
    }
  }

  function shortened(text) {
    const left = text.length - MOST_LETTERS;
    return left > 0 ? `${text.slice(0, MOST_LETTERS)}\n... and ${left.toLocaleString("en")} letters more` : text;
  }

  async function preview() {
    const canvas = find("preview"), [file] = find("picture").files;
    canvas.hidden = true;
    if (!file) return;
    let image;
    try {
      image = await createImageBitmap(file);
    } catch (error) {
      canvas.setAttribute("aria-label", error.message);
      return;  // what the server says of it counts
    }
    const scale = PREVIEW / Math.max(image.width, image.height);
    const shown = scale > 1 ? Math.floor(scale) : scale;
    canvas.width = Math.max(1, Math.round(image.width * shown));
    canvas.height = Math.max(1, Math.round(image.height * shown));
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = scale < 1;
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.setAttribute("aria-label", `${file.name}, ${image.width} x ${image.height} pixels (width x height)`);
    canvas.hidden = false;
  }

  function fail(title, text) {
    find("verdict").textContent = title;
    find("told").className = "bad";
    find("told").textContent = text;
  }

  if (find("picture")) {
    find("picture").addEventListener("change", preview);
    form.addEventListener("reset", () => { find("preview").hidden = true; });
  }
  if (find("token")) find("token").value = sessionStorage.getItem(KEPT) ?? "";
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    ask(form.querySelector("button[type=submit]"));
  });
  form.addEventListener("input", (event) => {
    const moved = event.target;
    if (moved.type === "range") find(moved.dataset.for).value = moved.value;
    else {
      const slider = form.querySelector(`[data-for="${moved.id}"]`);
      if (slider && NUMBER.test(moved.value.trim())) slider.value = moved.value;
    }
  });
})();
