"""The pages of Circuit Atlas: Streamlit, imports `atlas` only."""
