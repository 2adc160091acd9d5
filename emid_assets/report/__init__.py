"""The evaluation report: what is counted, how it is drawn, and the page that shows it."""
