//! Which services an operator has routers send nobody for.

use super::Membership;
use crate::admin::order::Answer;
use crate::control::overrides::Withdrawn;
use crate::model::names;

impl Membership {
    /// What is not to be announced.
    pub fn withdrawn(&self) -> &Withdrawn {
        &self.withdrawn
    }

    /// Has a service, or all of them, not be announced any more, or again; and remembers it across a restart.
    pub fn set_withdrawn(&mut self, service: Option<&str>, withdrawn: bool) -> Answer {
        match self.try_set_withdrawn(service, withdrawn) {
            Ok(changes) => {
                self.tell_operator(&changes);
                Answer::Done { changes }
            }
            Err(error) => Answer::Refused { error },
        }
    }

    fn try_set_withdrawn(&mut self, service: Option<&str>, withdrawn: bool) -> Result<Vec<String>, String> {
        let mut wanted = self.withdrawn.clone();
        let known = |name: &str| self.configured.services.iter().find(|service| service.name == name);
        let said = match (service, withdrawn) {
            (Some(name), _) if known(name).is_none() && (withdrawn || !wanted.services.contains(name)) => {
                let known = names::first(self.configured.services.iter().map(|known| known.name.as_str()));
                return Err(format!("there is no service {name}; there are {known}"));
            }
            (Some(name), false) if wanted.all => {
                return Err(format!(
                    "service {name} cannot be announced alone, because every service is withdrawn; `oneip ctl \
                     announce` announces all that are ready"
                ));
            }
            (Some(name), true) => {
                wanted.services.insert(name.to_owned());
                format!("service {name} is withdrawn: frames that still arrive are dispatched")
            }
            (Some(name), false) => match wanted.services.remove(name) {
                true => format!("service {name} is announced when it is ready"),
                false => format!("service {name} is not withdrawn by ctl"),
            },
            (None, true) => {
                wanted.all = true;
                "every service is withdrawn: frames that still arrive are dispatched".to_owned()
            }
            (None, false) if wanted == Withdrawn::default() => "no service is withdrawn by ctl".to_owned(),
            (None, false) => {
                wanted = Withdrawn::default();
                "every service is announced when it is ready".to_owned()
            }
        };
        let mut changes = vec![said];
        if self.configured.announce.is_none() && wanted != self.withdrawn {
            changes.push(
                "there is no [announce], so no route changes; keepalived learns it from `oneip ctl ready`".to_owned(),
            );
        }
        if let (Some(of), true) = (service.and_then(known), withdrawn) {
            let others = self.configured.services.iter().filter(|other| other.shares_address(of));
            let others: Vec<&str> =
                others.filter(|other| !wanted.has(&other.name)).map(|other| other.name.as_str()).collect();
            let named = names::first(others.iter().copied());
            let shared = format!("{} stays announced while service {named} is ready", of.addresses_text());
            changes.extend((!others.is_empty()).then_some(shared));
        }
        if wanted != self.withdrawn {
            let before = std::mem::replace(&mut self.withdrawn, wanted);
            if let Some(mut file) = self.file.take() {
                let confirmed = file.confirm(self.remembered(self.overrides.clone()));
                self.file = Some(file);
                if let Err(error) = confirmed {
                    self.withdrawn = before;
                    return Err(format!("{error}; nothing was changed, because a restart would lose the order"));
                }
            }
        }
        Ok(changes)
    }
}
