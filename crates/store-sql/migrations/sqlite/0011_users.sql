-- The people of the console.
create table console_user (
    id             integer primary key,
    name           text not null unique, -- in lower case
    role           integer not null,     -- owner, developer, viewer
    application_id integer,              -- confined to it; none reaches everything
    password       text,                 -- a PHC string; none until they chose one
    password_since integer,
    disabled_at    integer,
    created_at     integer not null,
    updated_at     integer not null
) strict;
create index console_user_application on console_user (application_id, id) where application_id is not null;
alter table session add column user_id integer;
create index session_of_user on session (user_id, id) where user_id is not null;
alter table audit add column user_id integer; -- of the console, who did it
