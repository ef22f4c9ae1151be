// Dialogs, confirmation with the consequence in words, and controls that are disabled with a reason.
import { on } from "./dom.js";

/**
 * Asks before something that cannot be taken back. Answers true or false.
 * Of `options`: title, body, button, danger, type (text that must be typed first).
 */
export function ask({ title, body = "", button = "Continue", danger = false, type = "" }) {
  const dialog = document.getElementById("confirm");
  const ok = dialog.querySelector("#confirm-ok");
  const typed = dialog.querySelector("#confirm-typed");
  const input = dialog.querySelector("#confirm-input");
  dialog.querySelector("#confirm-title").textContent = title;
  dialog.querySelector("#confirm-body").textContent = body;
  ok.textContent = button;
  ok.className = danger ? "btn btn-danger-solid" : "btn btn-primary";
  typed.hidden = !type;
  typed.querySelector("label").textContent = type ? `Type ${type} to go on` : "";
  input.value = "";
  input.oninput = () => (ok.disabled = Boolean(type) && input.value !== type);
  input.oninput();
  dialog.returnValue = "";
  dialog.showModal();
  (type ? input : danger ? dialog.querySelector("[value=cancel]") : ok).focus();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok"), { once: true }));
}

function questionOf(node) {
  return {
    title: node.dataset.confirm,
    body: node.dataset.confirmBody,
    button: node.dataset.confirmButton || node.textContent.trim() || "Continue",
    danger: "confirmDanger" in node.dataset,
    type: node.dataset.confirmType,
  };
}

const agreed = new WeakSet();

function onSubmit(event) {
  const asker = [event.submitter, event.target].find((node) => node?.dataset?.confirm);
  if (!asker || agreed.delete(event.target)) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  const { target, submitter } = event;
  ask(questionOf(asker)).then((yes) => {
    if (!yes) return;
    agreed.add(target);
    target.requestSubmit(submitter && target.contains(submitter) ? submitter : undefined);
  });
}

function onHtmxConfirm(event) {
  const asker = event.target.closest?.("[data-confirm]");
  if (!asker || asker.matches("form") || event.target.matches("form")) return; // forms are asked on submit
  event.preventDefault();
  ask(questionOf(asker)).then((yes) => yes && event.detail.issueRequest(true));
}

export function startDialogs() {
  document.addEventListener("submit", onSubmit, true);
  document.body.addEventListener("htmx:confirm", onHtmxConfirm);
  document.addEventListener("click", (event) => {
    const blocked = event.target instanceof Element && event.target.closest("[aria-disabled=true]");
    if (blocked) {
      event.preventDefault();
      event.stopImmediatePropagation();
    }
  }, true);
  on("click", "[data-open-dialog]", (event, button) => {
    event.preventDefault();
    document.getElementById(button.dataset.openDialog)?.showModal();
  });
  on("click", "[data-close-dialog]", (event, button) => button.closest("dialog")?.close());
  on("click", "dialog", (event, dialog) => event.target === dialog && !dialog.hasAttribute("data-modal-only") && dialog.close("cancel"));
  on("click", "[data-go-back]", () => history.back());
}
