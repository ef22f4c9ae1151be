import { on } from "./dom.js";
import { toast } from "./toasts.js";

/** Copies text; without a secure context the old way through a selection. Answers whether it worked. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "sr-only";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

export function startCopy() {
  on("click", "[data-copy]", async (event, button) => {
    event.preventDefault();
    if (!(await copyText(button.dataset.copy))) {
      toast({ level: "danger", title: "The browser did not allow copying.", remedy: "Select the text and copy it by hand." });
      return;
    }
    button.dataset.copied = "";
    const label = button.getAttribute("aria-label");
    button.setAttribute("aria-label", "Copied");
    setTimeout(() => {
      delete button.dataset.copied;
      button.setAttribute("aria-label", label);
    }, 1400);
  });
}
