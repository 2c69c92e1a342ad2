// What a file contains: {title, place, answers} of a view, or {title, place, world} of a world. null for a served page.
const text = document.getElementById("saved")?.textContent ?? "";
export const saved = text ? JSON.parse(text) : null;
