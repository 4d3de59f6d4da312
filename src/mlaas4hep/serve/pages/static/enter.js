// Where a token is needed: asks for this address with it, and shows what comes in place of this page.
"use strict";

(() => {
  const KEPT = "mlaas4hep-token";
  const form = document.getElementById("entrance");
  const why = document.getElementById("why");

  async function enter(token) {
    const headers = { Accept: "text/html", Authorization: `Bearer ${token}` };
    let response, text;
    try {
      response = await fetch(location.href, { headers, credentials: "omit" });
      text = await response.text();
    } catch (error) {
      why.textContent = error.message;
      return;
    }
    if (response.status === 401) sessionStorage.removeItem(KEPT);
    else sessionStorage.setItem(KEPT, token);
    if (response.status === 401 || response.status === 403) {
      const told = new DOMParser().parseFromString(text, "text/html").getElementById("why");
      why.textContent = told ? told.textContent : response.statusText;
      document.getElementById("token").focus();
      return;
    }
    document.open();
    document.write(text);
    document.close();
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    enter(document.getElementById("token").value.trim());
  });
  const kept = sessionStorage.getItem(KEPT);
  if (kept) enter(kept);
})();
