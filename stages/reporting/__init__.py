"""What does the report show, and how is it drawn?

`results` reads what the students reached, `measures` says how sure that is, `made` where a report comes from and what
earlier ones found; `report_data` gathers what is told, and has its words. `findings` says what comes first and what
stands out; `tables` and `figures` list and draw the rest (`drawing` is one figure), `gallery` shows pictures, and
`contact_sheet` puts them on one sheet. `page` fills the template beside it, which holds all other prose.
"""
