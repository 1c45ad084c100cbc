"""Publishing: dataset folders, their cards, and the HTML report of stage 07."""
