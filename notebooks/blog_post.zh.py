# ---
# jupyter:
#   accumcheck:
#     author: accumcheck 维护者
#     date: "2026-11-27"
#     language: zh-Hans
#     picture: figures/architectures.png
#     pages:
#       - {file: blog_post.html, title: English, language: en}
#       - {file: claims.html, title: "The claims, one by one", language: en}
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown] of="8c39a9bf"
# # 你的梯度累积，多半不等于大批次
#
# 梯度累积有一个承诺：把 *k* 个微批次的梯度加起来，再更新一次参数，就等于用 *k* 倍大的批次训练。我们对
# {{ frameworks.known.frameworks }} 个框架和大家抄来抄去的训练循环逐个权重地核对了这个承诺。它常常不成立。
#
# - **Hugging Face 的 Trainer** 训练 {{ architectures.sequence classifier.classes }} 种文本分类模型，其中
#   {{ architectures.sequence classifier.ignore_count | count }} 种的梯度是应有值的 *k* 倍。
# - **差异最多的地方，是微批次大小不等的时候和一轮的末尾。** 在 {{ frameworks.settings }} 种框架设置和示例代码中，有 {{ frameworks.tail.differs }}
#   种给最后那个不足 *k* 个微批次的窗口以错误的权重。另有许多种在那里有意遵循别的规则。
# - **一本知名教程书的训练循环的公开修正** `(batch_idx + 1) % k == 0 or last`，只要一轮不能整除，仍然是错的。
#
# 本页的一切都可以用仓库重新生成，每个数字都读自实验结果。

# %% [markdown] of="b6ebfa44"
# ## 动手看看
#
# 训练循环就是一张权重表。一行是一次优化器更新，一列是一个样本。批次大小为四时，每个样本的权重是 `1/4`。如果两个循环的表相同，
# 优化器和学习率也相同，那么除舍入误差外，它们就是同一次训练。只要模型里的样本互不影响，模型也不抽取随机数，这对任何模型都成立。
#
# 选一个循环，拖动滑块。橙色的格子是错的。

# %% tags=["hide-input"] of="0d65418a"
# Alt: 四幅权重热图，向下是优化器更新，向右是样本。有错的循环第一次更新只含一个样本，其余全部错位。公开的修正写法更新时机正确，但尾部的权重
# 是四分之一而不是三分之一，已用边框标出。正确的累积与全批次训练相同。
# Caption: 每个微批次有 *b* 个样本，每个窗口有 *k* 个微批次。条形是每种样本数下最差的一次更新：只在一轮末尾出错的循环，在样本数是 *N* 的倍数时看起来是对的。
# Data: contributions.csv, contributions_lengths.csv
from accumcheck.programs.rules import Program, Shape
from accumcheck.widget import State, fragment
from IPython.display import HTML, Image, display

state = State(Program(scale="1/k"), Shape(n=7, b=1, k=4, epochs=2))
display(HTML(fragment(state, "zh", fallback='<img src="../results/figures/contributions.svg">')))

# %% [markdown] of="d6b437cc"
# ## 可以直接抄的循环
#
# 先取出整个窗口，再做第一次反向传播；数一数窗口里的样本，让每个微批次占它应占的份额：
#
# ```diff
#  from itertools import islice
#
#  def train(model, optimizer, loss_fn, loader, k, epochs):
#      for epoch in range(epochs):
# -        for i, (inputs, targets) in enumerate(loader):
# -            loss = loss_fn(model(inputs), targets) / k
# -            loss.backward()
# -            if (i + 1) % k == 0:
# -                optimizer.step()
# -                optimizer.zero_grad()
# +        batches = iter(loader)
# +        while window := list(islice(batches, k)):  # 一轮结束时会少于 k 个
# +            samples = sum(len(targets) for inputs, targets in window)
# +            for inputs, targets in window:
# +                loss = loss_fn(model(inputs), targets) * len(targets) / samples
# +                loss.backward()
# +            optimizer.step()
# +            optimizer.zero_grad()
# ```
#
# 语言模型的损失是对词元取平均，所以要数 `(targets != -100).sum()`，而不是 `len(targets)`。
# 如果模型自己把标签错开一位（Hugging Face 的模型就是这样），要数的是 `labels[:, 1:]`。梯度裁剪放在内层循环之后、更新之前。
# 学习率调度每次更新走一步。

# %% [markdown] of="68439ead"
# ## 各框架的做法
#
# 只要模型的 `forward` 接受 `**kwargs`，Trainer 就把窗口里的标签数交给它，自己不再对损失做除法。因果语言模型会用这个数：
# {{ architectures.causal language model.classes }} 种里有 {{ architectures.causal language model.same }} 种累积正确。分类模型收下它，却不用。
# 这个问题[已有人报告](https://github.com/huggingface/transformers/issues/47688)。在修好之前，请设
# `model.accepts_loss_kwargs = False`，要在创建 Trainer 之前。

# %% tags=["hide-input"] of="9874e1f4"
# Alt: 各模型族、五种输出头的累积梯度与全批次梯度之比。除两种以外，因果语言模型都在一，几乎所有分类模型都在 k。空心标记是不足 k 个微批次的最后一个窗口。
# Caption: 按配置随机初始化的小模型；transformers {{ architectures.transformers }}，在 CPU 上运行。
display(Image(url="../results/figures/architectures.svg"))

# %% [markdown] of="d3d4dc74"
# 下面是我们读过的全部设置，影响最大的在前。点开格子，可以看到源码行、文档和讨论。

# %% tags=["hide-input"] of="d76fef89"
# Caption: 框架实际给出的权重，以及应有的权重。[文字版（英文）](../results/frameworks.md)。
from pathlib import Path

display(HTML(Path("../results/frameworks.html").read_text()))

# %% [markdown] of="174aa533"
# ## 这要紧吗？
#
# 就我们这样的小训练来看，没有想象的严重。我们用 Trainer 微调了一个图像分类模型，每种设置 {{ symptom.seeds }} 个随机种子：一边是
# {{ symptom.N }} 个样本的一个批次，一边是 *k* = {{ symptom.k }} 个微批次。
#
# **日志里看得见。** Trainer 记下的第一个损失和第一个梯度范数，是正确值的
# {{ symptom.trainer.sgd_off.as_it_is.first_norm_ratio.mean | .1f }} 倍。如果你改了累积步数，损失就跳了，请先查这里。
#
# **模型里最多在早期看得见。** 在不裁剪的 SGD 下，三轮之后的留出集准确率相差
# {{ symptom.trainer.sgd_off.as_it_is.early_accuracy.mean | points }} 个百分点，到最后看不出差异。加了裁剪，或者用 AdamW（它会抵消固定的
# 倍数），我们在准确率上没有看到任何差异。用上面的补救办法，所有曲线都与单个批次重合。

# %% tags=["hide-input"] of="f724cf2c"
# Alt: 三行图，分别是 SGD、带裁剪的 SGD 和带裁剪的 AdamW：Trainer 记录的损失和梯度范数，以及留出集准确率。不加补救时，损失和范数开始时是应有值的 k 倍，之后也一直偏大；
# 准确率只在不裁剪的 SGD 早期较低，后来恢复，其余相同。用补救办法后所有曲线重合。
# Caption: transformers 的 SigLIP 图像分类模型，两层，{{ symptom.parameters }} 个参数，先在 scikit-learn 的前五个数字上预训练，再用后五个微调：
# {{ symptom.samples }} 张训练，{{ symptom.held_out }} 张留出，{{ symptom.epochs }} 轮。双核 CPU，由 `python -m experiments symptom` 单独生成。
# 阴影是随机种子间的置信区间。
# Data: symptom.csv, symptom_curves.csv, symptom_differences.csv
display(Image(url="../results/figures/symptom.svg"))

# %% [markdown] of="169b088c"
# 错误的尾部和不等的词元数[也几乎看不出来（英文）](../results/claims.html#what-of-it-is-seen-in-training)。在
# {{ symptom.told.accuracy.all }} 种错误的训练里，最终准确率有差异的是 {{ symptom.told.accuracy.differ }} 种。
#
# 那为什么要在意？因为你为一种批次调好了学习率，却用另一种在训练。别人不用累积重复你的实验，重复的并不是同一次训练。
# 而且曲线不会告诉你，检查才会。

# %% [markdown] of="b4d23e3d"
# ## 检查你自己的脚本
#
# 把 `python` 换成 `accumcheck run`。什么都不用改，训练结果逐比特相同：
#
# ```text
# $ accumcheck run train.py
# ✗ train.py is NOT full-batch training
#
#   The last, short window of each epoch is divided by k, though it holds fewer
#   than k micro-batches. Its update is too small.              [tail-scaled-by-k]
# ```
#
# 它指出是哪一行，给出改法，并以测试能读懂的状态码退出。`accumcheck check my_loop.py:train` 在十种大小上证明一个函数是对是错，
# 不需要模型，也不需要数据。

# %% [markdown] of="5920f775"
# ## 为什么测试看不出来
#
# 我们把 {{ detection.bugs }} 个真实报告过的错误写成小循环和脚本，再用常见的测试方法逐一检验，每种方法都按公开描述重写。
# 有 {{ detection.usual_all_miss | count }} 个错误，这些方法全都没有发现。

# %% tags=["hide-input"] of="758e71a9"
# Alt: 各种根本原因与九种测试方法的对照表，写明每种方法发现了几个错误。常见方法几乎发现不了尾部的错误，有几种完全发现不了错误的倍数。accumcheck check 几乎全部发现。
# Caption: 在能够检验的错误中，每种方法发现的个数。[逐个错误（英文）](../results/figures/detection_bugs.svg)。
display(Image(url="../results/figures/detection.svg"))

# %% [markdown] of="8eeff04d"
# 如果测试用的数据恰好能整除，就看不出尾部的错误。在 {{ ragged_lengths.lengths }} 种样本数里，公开的修正写法只在
# {{ ragged_lengths.published_fix.equivalent }} 种上正确：*N = b · k* 的倍数。

# %% tags=["hide-input"] of="745ea214"
# Alt: 梯度的最大相对误差随样本数的变化。正确的循环在所有样本数上只有舍入误差。公开的修正写法只在样本数是全批次的倍数时正确。
# Caption: 在文本行上训练的小型 GPT，SGD，float64，N = {{ ragged_lengths.N }}。
display(Image(url="../results/figures/ragged_lengths.svg"))

# %% [markdown] of="cadf35a7"
# 而且 Adam 掩盖倍数。它把梯度除以梯度自身的大小，所以忘了除以 *k* 的损失几乎不影响它。在 SGD 下，同样的错误最后偏离全程的
# {{ drift.sgd.float32.undivided_error | .0% }}。Adam 不能原谅的，是只出现在某些更新上的倍数，而尾部正是如此。

# %% tags=["hide-input"] of="d74182b3"
# Alt: 循环的参数与全批次训练的参数之间的距离，相对于训练走过的路程。在 SGD 下，没有除以 k 的损失最后偏离约等于全程；在 AdamW 下小几个数量级。
# Caption: 在文本行上训练的小型 GPT，{{ drift.steps }} 步，两边各自训练；灰色区域是舍入能解释的范围。
display(Image(url="../results/figures/drift.svg"))

# %% [markdown] of="67f32660"
# ## 各种说法的核对结果
#
# 前十条来自 2025 年一篇文章，讲的是[一本书的训练循环和它的修正](https://github.com/rasbt/LLMs-from-scratch/pull/300)；最后一条是别人的说法。
# 每条都有实验，见[逐条说明（英文）](../results/claims.html)。
#
# | 说法 | 结论 | 测得 |
# | --- | --- | --- |
# | [第一个微批次就更新](../results/claims.html#the-condition-steps-at-the-first-micro-batch) | {{ contributions.claims.first_iteration.verdict | zh }} | `i % k == 0` 使第一次更新只含一个微批次 |
# | [剩下的微批次可能没有正确处理](../results/claims.html#leftovers-may-not-be-handled) | {{ contributions.claims.leftovers.verdict | zh }} | 它们并入下一轮，只有最后一轮的会丢失 |
# | [修正写法处理了开头、尾部和结尾](../results/claims.html#the-fix-handles-first-step-tail-and-end) | {{ contributions.claims.fix.verdict | zh }} | 更新时机正确；权重只在 *N* 的倍数时正确 |
# | [所有梯度都被充分利用](../results/claims.html#all-gradients-are-fully-used) | {{ tail_weight.verdict | zh }} | 仅当每轮都能整除；否则 *r* 个微批次的尾部只算 *r/k* |
# | [多个微批次等于大批次](../results/claims.html#micro-batches-equal-the-large-batch) | {{ tokens.verdict | zh }} | 对词元来说，仅当每个微批次的词元数相同 |
# | [批次为一累积八次，等于批次为八](../results/claims.html#batch-one-accumulated-eight-times-is-batch-eight) | {{ book.verdict | zh }} | 填充方式相同且关闭 dropout 时，只差舍入误差 |
# | [学习率可能需要调整](../results/claims.html#the-learning-rate-may-have-to-change) | {{ learning_rate.verdict | zh }} | 仅当 *N* 改变；AdamW 约按其平方根 |
# | [BatchNorm 需要小心](../results/claims.html#batchnorm-needs-care) | {{ batch_norm.verdict | zh }} | 梯度偏差 {{ batch_norm.BatchNorm.gradient.k16 | .0% }}，与动量无关 |
# | [曲线看起来可能更跳跃](../results/claims.html#the-curve-may-look-jumpy) | {{ smoothness.verdict | zh }} | 仅当记录单个微批次，或提高学习率 |
# | [节省显存](../results/claims.html#it-saves-memory) | {{ memory.verdict | zh }} | 激活值省了；梯度缓冲与模型一样大 |
# | [低精度缓冲会损失精度](../results/claims.html#narrow-buffers-lose-precision) | {{ precision.verdict | zh }} | bfloat16 累加 {{ precision.n }} 次偏差 {{ precision.bfloat16.error_by_k_at_b_1.256 | .1% }}；用 float32 缓冲为 {{ precision.bfloat16, float32 buffer.error_by_k_at_b_1.256 | .2% }} |

# %% [markdown] of="34c5cff7"
# ## 局限
#
# 只讨论对样本或词元取平均的损失，只在运行过的大小上。BatchNorm 和批内负样本会让样本互相影响，任何累积都不能使它们等于大批次；对后者，
# 梯度缓存可以。dropout 在不同的批次形状下会抽取不同的掩码，这里已关闭。框架只读了所列的版本。这里问的是两次训练是否相同，不是哪一次更好。
