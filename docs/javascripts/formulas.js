// Draws the formulas as MathML, which browsers show by themselves: no style
// sheet, no fonts, no network. KaTeX 0.16.47, see katex-LICENSE.txt.
window.addEventListener("load", () => {
  for (const formula of document.querySelectorAll(".arithmatex, .md-content")) {
    renderMathInElement(formula, {
      output: "mathml",
      delimiters: [
        { left: "\\(", right: "\\)", display: false },
        { left: "\\[", right: "\\]", display: true },
      ],
    });
  }
});
