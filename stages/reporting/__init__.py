"""What does the report show, and how is it drawn?

`results` reads what the students reached, `report_data` gathers what is told, `sections` and `background` tell it,
`gallery`, `figures` and `contact_sheet` show it, `plots` draws the same for DVC, `page` is the HTML around it.
`frontier_place` says which models are both accurate and fast, `frontier_plot` draws them.
"""
