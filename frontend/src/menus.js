// Popover menus beside their button, tooltips, and the drawer of the small screen.
import { on } from "./dom.js";

let opener = null;
const EDGE = 8;

/** Places a floating element beside `anchor`, inside the window. */
export function place(floating, anchor, { side = "bottom", align = "start", gap = 4 } = {}) {
  const box = anchor.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = floating;
  const below = box.bottom + gap;
  const above = box.top - gap - height;
  let top = side === "top" ? above : below;
  if (side === "bottom" && below + height > innerHeight - EDGE && above >= EDGE) top = above;
  if (side === "top" && above < EDGE) top = below;
  const start = align === "end" ? box.right - width : align === "center" ? box.left + (box.width - width) / 2 : box.left;
  floating.style.left = `${Math.max(EDGE, Math.min(start, innerWidth - width - EDGE))}px`;
  floating.style.top = `${Math.max(EDGE, Math.min(top, innerHeight - height - EDGE))}px`;
}

function onMenuToggle(event) {
  const menu = event.target;
  if (!(menu instanceof Element) || !menu.matches(".menu[popover]")) return;
  if (event.newState !== "open") {
    opener = null;
    return;
  }
  const anchor = event.source || opener || document.querySelector(`[popovertarget="${CSS.escape(menu.id)}"]`);
  if (!anchor) return;
  place(menu, anchor, { side: anchor.dataset.menuSide || "bottom", align: anchor.dataset.menuAlign || (anchor.closest(".actions, .topbar") ? "end" : "start") });
  menu.querySelector(".menu-item:not([aria-disabled=true])")?.focus({ preventScroll: true });
}

function onMenuKey(event, menu) {
  const items = [...menu.querySelectorAll(".menu-item")];
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || !items.length) return;
  event.preventDefault();
  items[(items.indexOf(document.activeElement) + step + items.length) % items.length].focus();
}

function startTooltips() {
  const tip = document.getElementById("tooltip");
  if (!tip?.showPopover) return;
  let timer = null;
  const hide = () => {
    clearTimeout(timer);
    if (tip.matches(":popover-open")) tip.hidePopover();
  };
  const show = (node, wait) => {
    hide();
    timer = setTimeout(() => {
      if (!node.isConnected) return;
      tip.textContent = node.dataset.reason || node.dataset.tip || node.querySelector(".rail-label").textContent;
      tip.showPopover();
      place(tip, node, { side: "top", align: "center", gap: 6 });
    }, wait);
  };
  // In the narrow rail the words of an icon are its tooltip.
  const selector = "[data-tip], [data-reason], [data-rail=narrow] .rail-item";
  on("pointerover", selector, (event, node) => event.pointerType !== "touch" && show(node, node.dataset.reason ? 60 : 350));
  on("pointerout", selector, hide);
  on("focusin", selector, (event, node) => node.matches(":focus-visible") && show(node, 60));
  on("focusout", selector, hide);
  on("click", "[data-reason]", (event, node) => show(node, 0), true);
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide(), true);
  document.addEventListener("scroll", hide, { capture: true, passive: true });
}

function startDrawer() {
  const root = document.documentElement;
  const set = (open) => {
    root.toggleAttribute("data-drawer", open);
    if (open) root.dataset.drawer = "open";
    for (const button of document.querySelectorAll("[data-open-drawer]")) button.setAttribute("aria-expanded", String(open));
    if (open) document.querySelector(".rail a.rail-item")?.focus();
  };
  on("click", "[data-open-drawer]", () => set(root.dataset.drawer !== "open"));
  on("click", "[data-close-drawer]", () => set(false));
  document.addEventListener("keydown", (event) => event.key === "Escape" && root.dataset.drawer && set(false));
}

export function startMenus() {
  on("click", "[popovertarget]", (event, button) => (opener = button), true);
  document.addEventListener("toggle", onMenuToggle, true);
  on("keydown", ".menu", onMenuKey);
  on("click", ".menu .menu-item", (event, item) => {
    if (item.getAttribute("aria-disabled") === "true" || item.hasAttribute("data-stay")) return;
    item.closest("[popover]")?.hidePopover();
  });
  startTooltips();
  startDrawer();
}
