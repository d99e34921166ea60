// Questions to both models. What comes back is written as text, never as markup.
"use strict";

(() => {
  const STEPS = [0.5, 2, 5]; // nats from which a word is coloured
  const form = document.getElementById("form");
  const question = document.getElementById("question");
  const answer = document.getElementById("answer");
  const samples = document.getElementById("samples");
  const button = document.getElementById("ask");
  const numbers = document.getElementById("numbers");
  const status = document.getElementById("status");
  const found = document.getElementById("found");

  const made = (name, className, text) => {
    const element = document.createElement(name);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const chance = (value) => (value >= 0.0005 ? value.toFixed(3) : value.toExponential(0));
  const said = (text) => {
    const line = made("p", "said");
    if (!text.words.length) line.textContent = "(nothing)";
    for (const word of text.words) {
      const step = STEPS.filter((least) => Math.abs(word.moved) >= least).length;
      line.append(made("span", step ? `word ${word.moved > 0 ? "more" : "less"}${step}` : "word", word.text));
      if (Math.abs(word.moved) >= 0.05) {
        line.append(made("span", "moved", `${word.moved > 0 ? "+" : "−"}${Math.abs(word.moved).toFixed(1)}`));
      }
      line.append(" ");
    }
    return line;
  };
  const titled = (title, text) => {
    const heading = made("h3", "", title);
    heading.append(made("span", "chances", `${chance(text.before)} before, ${chance(text.after)} after`));
    return heading;
  };
  const side = (title, one) => {
    const part = made("section");
    part.append(titled(title, one.answer), said(one.answer));
    if (one.samples.length) {
      const list = made("ol", "samples");
      for (const sample of one.samples) list.append(made("li", "", sample || "(nothing)"));
      part.append(list);
    }
    return part;
  };
  const show = (result) => {
    const article = made("article");
    const sides = made("div", "sides");
    sides.append(side("Before", result.before), side("After", result.after));
    article.append(made("h2", "", result.question), sides);
    if (result.given) {
      const given = made("div", "given");
      given.append(titled("Your answer", result.given), said(result.given));
      article.append(given);
    }
    found.prepend(article);
  };
  const tell = (text, wrong) => {
    status.textContent = text;
    status.classList.toggle("error", Boolean(wrong));
  };
  const ask = async () => {
    const sent = { question: question.value, samples: samples.valueAsNumber };
    if (answer.value.trim()) sent.answer = answer.value;
    button.disabled = true;
    tell("Asking both models …");
    try {
      const reply = await fetch("ask", {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(sent),
      });
      const result = await reply.json();
      if (!reply.ok) throw new Error(result.error);
      show(result);
      tell("Answered.");
      question.select();
    } catch (error) {
      tell(error instanceof TypeError ? "The command does not respond: is it still running?" : error.message, true);
    } finally {
      button.disabled = false;
    }
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!button.disabled) ask();
  });
  for (const field of [question, answer]) {
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      form.requestSubmit();
    });
  }
  numbers.addEventListener("change", () => found.classList.toggle("numbers", numbers.checked));
})();
