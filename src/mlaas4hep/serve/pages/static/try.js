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

  function question() {
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

  function drawEvents(answer) {
    const scores = answer.predictions[0];
    if (scores === null) {
      find("verdict").textContent = "Not selected";
      find("told").textContent = `The event does not pass ${about.preselection}`;
      return;
    }
    if (about.task === "regression") {
      find("verdict").textContent = "Predicted";
      about.scores.forEach((name, number) => {
        const [low, high] = about.ranges[name] ?? [null, null];
        const value = scores[name];
        const known = value !== null && low !== null && high > low;
        bar(known ? `${name} (${low.toPrecision(4)} to ${high.toPrecision(4)})` : name, value, known ? (value - low) / (high - low) : 0, number);
      });
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
    if (about.task === "binary") find("told").textContent = `The model gives the score of ${about.scores[0]}; the other is one minus that.`;
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
    let body;
    try {
      body = question();
    } catch (error) {
      if (!(error instanceof Unreadable)) throw error;
      clear("");
      fail("This cannot be asked", error.message);
      error.field.setAttribute("aria-invalid", "true");
      error.field.focus();
      return;
    }
    const headers = { "Content-Type": "application/json" };
    const token = find("token")?.value.trim();
    if (token) {
      headers.Authorization = `Bearer ${token}`;
      sessionStorage.setItem(KEPT, token);
    }
    clear("Asking");
    find("sent").textContent = `POST /${about.path}\nContent-Type: application/json\n\n${body}`;
    button.disabled = true;
    try {
      const began = performance.now();
      const response = await fetch(form.dataset.root + about.path, { method: "POST", headers, body, credentials: "omit" });
      const text = await response.text();
      find("got").textContent = `${response.status}, ${(performance.now() - began).toFixed(1)} ms\n\n${text}`;
      const answer = JSON.parse(text);
      if (!response.ok) {
        fail("Refused", answer.error);
      } else if (about.kind === "events") drawEvents(answer);
      else drawTensors(answer);
    } catch (error) {
      fail("No answer", error.message);
    } finally {
      button.disabled = false;
    }
  }

  function fail(title, text) {
    find("verdict").textContent = title;
    find("told").className = "bad";
    find("told").textContent = text;
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
