"""How do students and stores get to other people, whole and described?

`parcel` says which files go and refuses what is not whole, `data_card` describes a store, and `hub` puts a parcel on
the Hugging Face Hub so that nobody ever finds half of it.

Imports `exporting`, for a student's files and its card.
"""
