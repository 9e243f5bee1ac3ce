-- Publishing in the transaction of a client that reads backslashes in texts as escapes.
alter function publish(text, text, json) set standard_conforming_strings = on;
alter function publish(text, text, text, json) set standard_conforming_strings = on;
