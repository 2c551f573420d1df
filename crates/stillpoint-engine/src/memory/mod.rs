//! A process's memory: its areas, and what of them must be saved.

pub mod areas;
pub mod inherit;
pub mod pages;
pub mod policy;
pub mod ranges;
pub mod rebuild;
pub mod shared;

use crate::kind::support::SupportRow;

pub use areas::{CapturedMm, capture};

/// Size of a page. All machines that are supported so far have this one.
pub const PAGE: u64 = 4096;

/// What of memory is saved or refused, for the support matrix.
pub const SUPPORT: &[SupportRow] = &[
    SupportRow::saved(
        "private anonymous areas",
        "5.10",
        "only pages that hold something; PROT_NONE ones too",
    ),
    SupportRow::saved(
        "shared anonymous areas",
        "5.10",
        "shared between the tasks that shared them; refused if a process outside the tree maps them too. Without \
         CAP_CHECKPOINT_RESTORE all of it is read, which takes time and memory for its holes",
    ),
    SupportRow::saved(
        "copy-on-write sharing of a child with its parent",
        "5.10",
        "pages that children have in common only among themselves are saved for each",
    ),
    SupportRow::saved("private file mappings", "5.10", "the file is checked; changed pages are saved"),
    SupportRow::saved("shared file mappings", "5.10", "the file is checked"),
    SupportRow::saved("growing stacks, heap (brk), argument and environment areas, auxv", "5.10", ""),
    SupportRow::saved("vDSO and vvar", "5.10", "the kernel's vDSO must be the same"),
    SupportRow::saved(
        "madvise: dontfork, wipeonfork, dontdump, mergeable, huge pages, random, sequential",
        "5.10",
        "",
    ),
    SupportRow::saved("locked areas (mlock)", "5.10", ""),
    SupportRow::saved(
        "mappings of memfds and deleted files",
        "5.10",
        "open or mapped only; one that is mapped only needs CAP_CHECKPOINT_RESTORE to be looked at",
    ),
    SupportRow::refused("System V shared memory", "not yet"),
    SupportRow::saved(
        "guard regions (MADV_GUARD_INSTALL)",
        "6.15",
        "refused on 6.13 and 6.14, which do not tell them",
    ),
    SupportRow::saved(
        "sealed areas (mseal), droppable areas (MAP_DROPPABLE)",
        "6.10",
        "restored on a kernel that has them",
    ),
    SupportRow::saved(
        "NUMA policies of areas (mbind)",
        "5.10",
        "refused: MPOL_F_STATIC_NODES, MPOL_F_RELATIVE_NODES",
    ),
    SupportRow::saved(
        "huge pages: private anonymous (MAP_HUGETLB), memfd",
        "5.10",
        "free huge pages must be there",
    ),
    SupportRow::refused("huge pages: shared anonymous, files of hugetlbfs", "not yet"),
    SupportRow::refused("userfaultfd areas, shadow stacks, memory protection keys", "not yet"),
    SupportRow::refused(
        "device mappings, asynchronous I/O rings, secretmem, perf and io_uring rings",
        "kernel state",
    ),
];
