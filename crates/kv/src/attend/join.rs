//! Companies of a step: found, divided into what one task takes, and made tasks.

use super::company::{Company, Reader, companies, meet};
use super::tasks::{Candidate, Joint, Part, Tasks};
use super::{Attention, Own};
use std::sync::atomic::Ordering::Relaxed;

impl Attention<'_, '_> {
    /// Finds the companies, and makes units of all that are in one.
    pub(super) fn join(&self, candidates: &mut [Candidate], tasks: &mut Tasks) {
        let g = self.geometry;
        let mut found: Vec<(usize, Company)> = Vec::new();
        for head in 0..g.kv_heads {
            let here = candidates.iter().enumerate().filter(|(_, candidate)| candidate.own.head == head);
            let readers = meet(here.map(|(i, candidate)| (i, self.reader(candidate))).collect());
            let (numbers, readers): (Vec<usize>, Vec<Reader<'_>>) = readers.into_iter().unzip();
            let ends = readers.iter().map(|reader| reader.splits.end).max().unwrap_or(0);
            for split in readers.iter().map(|reader| reader.splits.start).min().unwrap_or(0)..ends {
                found.extend(companies(&readers, split).into_iter().map(|company| {
                    let members = company.members.iter().map(|&i| numbers[i]).collect();
                    (split, Company { members, pages: company.pages })
                }));
            }
        }
        let vectors = |candidate: &Candidate| candidate.own.rows.len() * g.group();
        let all = found.iter().flat_map(|(_, company)| &company.members).map(|&i| vectors(&candidates[i])).sum();
        let limit = self.limit(all);
        let mut sets_of = Vec::new();
        for (split, company) in found {
            let mut members = Vec::new();
            let mut held = 0;
            for (n, &i) in company.members.iter().enumerate() {
                let count = vectors(&candidates[i]);
                let own = candidates[i].own.clone();
                let splits = candidates[i].splits.clone();
                members.push(*candidates[i].unit.get_or_insert_with(|| tasks.unit(&own, &splits, count)));
                held += count;
                let next = company.members.get(n + 1).map(|&next| vectors(&candidates[next]));
                if next.is_none_or(|next| held + next > limit) {
                    self.joint(tasks, &members, &mut sets_of, split, company.pages);
                    members.clear();
                    held = 0;
                }
            }
        }
    }

    /// Where a candidate stands in its lane.
    fn reader(&self, candidate: &Candidate) -> Reader<'_> {
        let Own { segment, head, .. } = candidate.own;
        let seq = &*self.segments[segment].seq;
        let lane = seq.lane(self.layer, head);
        let first = lane.slots(seq.len);
        let last = first + candidate.own.rows.len() - 1;
        Reader { lane, first, last, window: self.geometry.window, splits: candidate.splits.clone() }
    }

    fn joint(
        &self,
        tasks: &mut Tasks,
        members: &[usize],
        sets_of: &mut Vec<Option<usize>>,
        split: usize,
        pages: usize,
    ) {
        let set = tasks.set(members, sets_of);
        let unit = &tasks.units[members[0]];
        let (course, _) = self.course(unit, split).split_at(pages);
        let part = Part { pages, within: course.within_body() };
        tasks.sets[set].body |= !course.body.is_empty();
        for &unit in members {
            let at = tasks.units[unit].part(split);
            tasks.parts[at] = part;
        }
        tasks.joint.push(Joint { set, split, course });
        self.spared.fetch_add(((members.len() - 1) * pages) as u64, Relaxed);
    }
}
