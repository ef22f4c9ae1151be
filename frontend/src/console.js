import "@novnc/novnc";
