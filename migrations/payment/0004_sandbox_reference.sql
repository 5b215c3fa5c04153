-- The reference is made of the key, so that it is unique with it. A constraint of its own made an error of two requests with
-- one key that came at the same moment: only a conflict on the key is answered with what was there.

alter table sandbox.card_authorization drop constraint card_authorization_reference_key;
