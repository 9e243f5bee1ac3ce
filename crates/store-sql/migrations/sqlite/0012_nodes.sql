-- Where the node that leads is reached by others; in a file there is one node.
alter table meta add column text text;
