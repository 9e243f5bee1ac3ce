-- Where the node that leads is reached by others, beside the numbers of the store.
alter table meta add column text text;
