// Why a console's socket closed, in words. The table is the server's (consoles/reasons.py), given with the page.

const LOST = { reason: "line_lost", text: "The line to the server was lost.", resumable: true };
const OWN = {
  1001: { reason: "server_stopping", text: "The management server is restarting.", resumable: true },
  1006: LOST,
  1011: { reason: "server_error", text: "The management server had a problem.", resumable: true },
  1012: { reason: "server_stopping", text: "The management server is restarting.", resumable: true },
  1013: { reason: "server_busy", text: "The management server is busy.", resumable: true },
};
const REMEDIES = {
  expired: "Open it again; a new link is made at once.",
  secret: "Open it again from the VM's page.",
  idle: "Open it again when you need it.",
  right_revoked: "Ask an administrator if you still need it.",
  right: "Ask an administrator for the right to this console.",
  vm_moved: "Open it again in a moment, when it is there.",
  vm_stopped: "Start the VM, then open its console again.",
  host_lost: "Try again in a moment. An administrator can look at the host's page.",
  guest_unreachable: "Try again in a moment. If it stays so, an administrator can run the console doctor on the host's page.",
  guest_refused: "An administrator can run the console doctor on the host's page.",
  guest_certificate: "An administrator can compare the host's certificate with the one that the audit trail tells.",
  ticket_refused: "Open it again; a new ticket is taken at once.",
  platform_limit: "Close a console of this VM, or ask an administrator to end a connection that nobody needs.",
  management_refused: "An administrator can test the connection on the host's page.",
  origin: "Open the console from CloudOps' own address.",
  taken_over: "Look for the other window, or open it here again.",
  unavailable: "Try again in a moment.",
};

/** {reason, text, resumable, remedy} for a close code; `said` is the server's own sentence and goes first. */
export function explain(table, code, said = "") {
  const entry = table[String(code)] || OWN[code] || { reason: "unknown", text: `The connection was closed (code ${code}).`, resumable: false };
  return { ...entry, text: said || entry.text, remedy: REMEDIES[entry.reason] || "" };
}

/** Which step of connecting a close code belongs to, when it came before the picture. */
export function failedStep(reason, wasOpen) {
  if (!wasOpen) return "server";
  return /^(secret|origin|right|limit|platform_limit|ended|expired|right_revoked|taken_over|disconnected)$/.test(reason) ? "slot"
    : /^(unavailable|server_stopping|lease_lapsed|line_lost|server_error|server_busy)$/.test(reason) ? "server" : "guest";
}

/** While resuming: whether another try may still succeed. */
export function mayRetry(entry) {
  return entry.resumable || ["unavailable", "guest_unreachable", "guest_refused", "host_lost", "ticket_refused", "platform_limit"].includes(entry.reason);
}
