"""Which part of each method helps, for which targets and which teachers: many students, tuned alike, and one page."""
